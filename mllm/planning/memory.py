"""Bytes that one rank holds while it trains, under each ZeRO stage.

Model states as in ZeRO (arXiv 1910.02054, section 3.1), in the sizes that torch and DeepSpeed
allocate; P trainable and F frozen parameters, b bytes of a weight, N ranks:

| stage | weights   | gradients | float32 master | optimiser states |
|-------|-----------|-----------|----------------|------------------|
| 0     | 4(P+F)    | 4P, and 4P of buckets when N > 1 | –  | 4sP |
| 1     | b(P+F)    | bP        | 4P/N           | 4sP/N            |
| 2     | b(P+F)    | bP/N      | 4P/N           | 4sP/N            |
| 3     | b(P+F)/N  | bP/N      | 4P/N, none in float32 | 4sP/N     |

s is 2 for AdamW and 1 for Muon. Stage 0 is plain data parallel: float32 weights, and with bf16 the
bfloat16 copies that autocast makes of them for a step. DeepSpeed pads what it cuts up: stages 1 and
2 each group to a multiple of 2N, stage 3 each parameter to a multiple of N. Buffers are
upper bounds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from mllm.phase.parameter_groups import ParameterGroup

MASTER_BYTES = 4
ALIGNMENT = 2  # of DeepSpeed's flat groups, in numbers for each rank
REDUCE_BUCKET = 5 * 10**8  # numbers; DeepSpeed's own default
BLOCK = 64  # numbers of a 4-bit matrix that share a scale, bitsandbytes' own default
LIVE_PARAMETERS = 10**9  # numbers gathered at once under ZeRO-3, `stage3_max_live_parameters`


@dataclass
class States:
    """Bytes on one rank that do not grow with the micro-batch.

    Attributes:
        weights: of the model, frozen parts included.
        gradients: of what trains.
        master: float32 copies that the optimiser moves.
        optimizer: moments.
        buffers: buckets of communication, and weights gathered for the moment.
        host: bytes of the above that CPU offload keeps in the host's memory instead.
    """

    weights: int
    gradients: int
    master: int
    optimizer: int
    buffers: int
    host: int = 0

    @property
    def device(self) -> int:
        """Bytes on the device."""
        whole = self.weights + self.gradients + self.master + self.optimizer + self.buffers
        return whole - self.host


def states(
    groups: list[ParameterGroup],
    frozen: list[int],
    stage: int,
    num_ranks: int,
    bf16: bool,
    offload: bool = False,
    four_bits: Sequence[int] = (),
) -> States:
    """Model states of one rank.

    Args:
        groups: what trains.
        frozen: numbers of each frozen parameter that is held whole.
        stage: of ZeRO; 0 is plain data parallel.
        num_ranks: N.
        bf16: train in bfloat16.
        offload: the optimiser lives in the host's memory (stages 1 to 3).
        four_bits: numbers of each matrix of the frozen base of QLoRA, which no stage cuts up.
    """
    packed = sum(map(four_bit_bytes, four_bits))
    trained = [[p.numel() for p in group.parameters] for group in groups]
    num_trained, num_frozen = sum(map(sum, trained)), sum(frozen)
    if stage == 0:
        copies = 2 * num_trained if bf16 else 0
        buckets = MASTER_BYTES * num_trained if num_ranks > 1 else 0
        return States(
            weights=MASTER_BYTES * (num_trained + num_frozen) + packed,
            gradients=MASTER_BYTES * num_trained,
            master=0,
            optimizer=sum(
                MASTER_BYTES * g.states * sum(n) for g, n in zip(groups, trained, strict=True)
            ),
            buffers=buckets + copies,
        )
    item = 2 if bf16 else MASTER_BYTES
    if stage == 3:
        shares = [sum(ceil(n / num_ranks) for n in numels) for numels in trained]
        frozen_share = sum(ceil(n / num_ranks) for n in frozen)
        weights = item * (sum(shares) + frozen_share)
        gathered = min(LIVE_PARAMETERS, num_trained + num_frozen) * (num_ranks > 1)
    else:
        step = ALIGNMENT * num_ranks
        shares = [ceil(sum(numels) / step) * ALIGNMENT for numels in trained]
        weights = item * (num_ranks * sum(shares) + num_frozen)
        gathered = 0
    master = 0 if stage == 3 and not bf16 and not offload else MASTER_BYTES * sum(shares)
    moments = sum(MASTER_BYTES * g.states * n for g, n in zip(groups, shares, strict=True))
    bucket = min(REDUCE_BUCKET, num_trained) if num_ranks > 1 else 0
    return States(
        weights=weights + packed,
        gradients=item * (num_trained if stage == 1 else sum(shares)),
        master=master,
        optimizer=moments,
        buffers=item * (bucket + gathered),
        host=master + moments if offload else 0,
    )


def four_bit_bytes(num: int) -> int:
    """Bytes of a matrix of `num` numbers as QLoRA packs it (arXiv 2305.14314, section 3).

    Half a byte a number; for each block of 64 a scale of one byte, and for each 256 scales one in
    float32 and their offset; the table of the 16 values, and that of the 256 scales.
    """
    num_scales = ceil(num / BLOCK)
    tables = MASTER_BYTES * (16 + 256)
    return ceil(num / 2) + num_scales + MASTER_BYTES * (ceil(num_scales / 256) + 1) + tables


def loss_bytes(num_labels: int, rows: int, width: int, bf16: bool) -> int:
    """Peak of the loss of labels over the rows of a head, D wide.

    The scores and their gradient in the compute's type; in float32 the scores, their log-softmax
    and its gradient; the chosen hidden states and their gradient.
    """
    item = 2 if bf16 else MASTER_BYTES
    return num_labels * (rows * (2 * item + 3 * MASTER_BYTES) + 2 * width * item)


def flops_of_a_row(
    num_trained: int,
    num_frozen: int,
    num_head_numbers: int,
    num_layers: int,
    attention_width: int,
    row_length: int,
    recompute: bool,
    frozen_head: bool = False,
) -> int:
    """FLOPs of a forward and a backward pass over one row (PaLM, arXiv 2204.02311, appendix B).

    For each token, six for each number of a trained matrix (two forward, four backward) and
    12·L·width of attention in each layer, counted dense; a frozen matrix takes no gradient, which
    is two of the six; activation checkpointing runs the layers once more.

    Args:
        num_trained, num_frozen: numbers of the decoder layers' matrices.
        num_head_numbers: of the head that scores the token.
        num_layers: of the decoder.
        attention_width: heads × width of a head.
        row_length: L.
        recompute: activation checkpointing.
        frozen_head: the head takes no gradient.
    """
    passes = 4 if recompute else 3
    matrices = 2 * (num_trained * passes + num_frozen * (passes - 1))
    attention = 4 * num_layers * attention_width * row_length * passes
    head = 2 * num_head_numbers * (3 - frozen_head)
    return row_length * (matrices + attention + head)
