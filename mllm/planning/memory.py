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
    """Bytes on one rank that do not grow with the micro-batch: the columns of the table; buckets of
    communication and weights gathered for the moment; and how many of all these bytes CPU offload
    keeps in the host's memory instead."""

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
                MASTER_BYTES * group.num_states * group.num_parameters for group in groups
            ),
            buffers=buckets + copies,
        )
    item = 2 if bf16 else MASTER_BYTES
    if stage == 3:
        shards = [sum(ceil(n / num_ranks) for n in numels) for numels in trained]
        frozen_shard = sum(ceil(n / num_ranks) for n in frozen)
        weights = item * (sum(shards) + frozen_shard)
        gathered = min(LIVE_PARAMETERS, num_trained + num_frozen) * (num_ranks > 1)
    else:
        step = ALIGNMENT * num_ranks
        shards = [ceil(sum(numels) / step) * ALIGNMENT for numels in trained]
        weights = item * (num_ranks * sum(shards) + num_frozen)
        gathered = 0
    master = 0 if stage == 3 and not bf16 and not offload else MASTER_BYTES * sum(shards)
    moments = sum(MASTER_BYTES * g.num_states * n for g, n in zip(groups, shards, strict=True))
    bucket = min(REDUCE_BUCKET, num_trained) if num_ranks > 1 else 0
    return States(
        weights=weights + packed,
        gradients=item * (num_trained if stage == 1 else sum(shards)),
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


def loss_bytes(num_labels: int, vocab_size: int, width: int, bf16: bool) -> int:
    """Peak of the loss of labels under a head of `vocab_size` scores, D wide.

    The scores and their gradient in the compute's type; in float32 the scores, their log-softmax
    and its gradient; the chosen hidden states and their gradient.
    """
    item = 2 if bf16 else MASTER_BYTES
    return num_labels * (vocab_size * (2 * item + 3 * MASTER_BYTES) + 2 * width * item)
