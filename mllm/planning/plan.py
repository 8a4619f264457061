"""What a training run of the language model will take, before anything is rented or downloaded.

The model is built on the meta device, from configs alone. Estimates assume the worst sequence, in
which every token is a label of the larger head, and leave a tenth of the memory to the driver, the
allocator's gaps and the kernels' workspace.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt

import torch

from mllm.init.settings import InitSettings
from mllm.model.loss import CHUNK_SCORES
from mllm.model.modeling_unified import UnifiedModel
from mllm.phase.deepspeed_config import zero_of
from mllm.phase.parameter_groups import ParameterGroup
from mllm.phase.settings import PhaseSettings
from mllm.planning.activations import Activations, activations
from mllm.planning.flops import flops_per_sequence
from mllm.planning.memory import States, loss_bytes, states
from mllm.planning.model import in_four_bits, optimizer_groups, parts, planned_model
from runtime.errors import UserError

USABLE = 0.9  # of the memory; ours


@dataclass
class Sharding:
    """One way to spread the run over its ranks.

    Attributes:
        stage: of ZeRO; 0 is plain data parallel.
        offload: the optimiser lives in the host's memory.
        chosen: the settings ask for this one.
        micro_batch_size: the given one, else the largest that divides the sequences of a rank; 0
            where it does not fit.
        accumulation: micro-batches of a step.
        peak: bytes on the device at that micro-batch, or at the smallest where none fits.
    """

    stage: int
    offload: bool
    chosen: bool
    states: States
    micro_batch_size: int
    accumulation: int
    peak: int


@dataclass
class Plan:
    """A run in numbers. Bytes are of one rank, FLOPs of all.

    Attributes:
        model: with shapes alone.
        parameters: numbers by part.
        groups: of the optimiser.
        activations, loss: bytes of one sequence.
        sequence_bytes: bytes that one more sequence of the micro-batch takes.
        flops_per_step: forward and backward.
        shardings: every stage, with and without offload where there is a choice.
    """

    settings: PhaseSettings
    num_gpus: int
    gpu_memory: int
    model: UnifiedModel
    parameters: dict[str, int]
    groups: list[ParameterGroup]
    activations: Activations
    loss: int
    sequence_bytes: int
    flops_per_step: int
    shardings: list[Sharding]

    @property
    def tokens_per_step(self) -> int:
        """Padding included."""
        return self.settings.global_batch_size * self.settings.max_seq_length

    @property
    def learning_rates(self) -> dict[str, float]:
        """Peak learning rate of each part of the model that trains."""
        multipliers = self.settings.multipliers
        return {part: self.settings.learning_rate * m for part, m in multipliers.items() if m}


def make_plan(
    settings: PhaseSettings, init: InitSettings | None, num_gpus: int, gpu_memory: int
) -> Plan:
    """Size a run on `num_gpus` of `gpu_memory` bytes; `init` is for a model that is not made yet.

    Raises:
        UserError: if the model is not known, an image does not fit into a sequence, or the batch
            cannot be divided among the ranks.
    """
    sizes = micro_batch_sizes(settings, num_gpus)
    model = planned_model(settings, init)
    num_positions = model.config.num_image_positions
    if settings.max_seq_length < num_positions + 4:
        raise UserError(
            f"max_seq_length {settings.max_seq_length} holds no image of {num_positions} tokens "
            f"with a prompt; raise it"
        )
    groups = optimizer_groups(model, settings)
    dtype = torch.bfloat16 if settings.bf16 else torch.float32
    kept = activations(model, settings.max_seq_length, dtype)
    text = model.config.text_config
    vocab_size = max(text.vocab_size, model.image_head.rows.out_features)
    # A chunk for each sequence of the micro-batch: more than is ever held at once.
    num_scored = min(settings.max_seq_length, max(1, CHUNK_SCORES // vocab_size))
    loss = loss_bytes(num_scored, vocab_size, text.hidden_size, settings.bf16)
    layers = kept.checkpointed if settings.gradient_checkpointing else kept.layers
    plan = Plan(
        settings=settings,
        num_gpus=num_gpus,
        gpu_memory=gpu_memory,
        model=model,
        parameters=parts(model),
        groups=groups,
        activations=kept,
        loss=loss,
        sequence_bytes=layers + kept.mask + loss,
        flops_per_step=settings.global_batch_size * flops_per_sequence(model, settings),
        shardings=[],
    )
    plan.shardings = _shardings(plan, sizes)
    return plan


def micro_batch_sizes(settings: PhaseSettings, num_ranks: int) -> list[int]:
    """What a micro-batch may be: the given size, or every divisor of a rank's sequences.

    Raises:
        UserError: if the batch cannot be divided among the ranks.
    """
    size, given = settings.global_batch_size, settings.micro_batch_size
    if size % num_ranks:
        raise UserError(
            f"global_batch_size {size} is not a multiple of {num_ranks} ranks; change one of them"
        )
    per_rank = size // num_ranks
    if given is not None and per_rank % given:
        raise UserError(
            f"global_batch_size {size} is not a multiple of micro_batch_size {given} × {num_ranks} "
            f"ranks; change one of them"
        )
    small = [n for n in range(1, isqrt(per_rank) + 1) if per_rank % n == 0]
    return [given] if given else sorted({*small, *(per_rank // n for n in small)})


def _shardings(plan: Plan, sizes: Sequence[int]) -> list[Sharding]:
    settings, model = plan.settings, plan.model
    packed = in_four_bits(model, settings)
    four_bits, is_packed = [p.numel() for p in packed], {id(p) for p in packed}
    frozen = [
        p.numel() for p in model.parameters() if not p.requires_grad and id(p) not in is_packed
    ]
    # Muon needs whole matrices, so it trains by plain data parallel alone; and ZeRO-3 does not cut
    # up what is packed into 4 bits.
    stages = (0,) if settings.optimizer == "muon" else (0, 1, 2) if packed else (0, 1, 2, 3)
    zero = zero_of(settings)
    shardings = []
    for stage in stages:
        for offload in (False, True) if stage else (False,):
            held = states(
                plan.groups, frozen, stage, plan.num_gpus, settings.bf16, offload, four_bits
            )
            free = USABLE * plan.gpu_memory - held.device
            micro = max((n for n in sizes if n * plan.sequence_bytes <= free), default=0)
            per_step = micro * plan.num_gpus
            accumulation = settings.global_batch_size // per_step if micro else 0
            peak = held.device + (micro or sizes[0]) * plan.sequence_bytes
            chosen = (stage, offload) == (zero.stage, zero.offload == "cpu")
            shardings.append(Sharding(stage, offload, chosen, held, micro, accumulation, peak))
    return shardings


def micro_batch_that_fits(settings: PhaseSettings, num_ranks: int, memory: int) -> int:
    """The given micro-batch, or the largest one that `memory` bytes of each rank hold.

    Raises:
        UserError: if it does not fit into the memory, or not even one sequence does.
    """
    plan = make_plan(settings, None, num_ranks, memory)
    (chosen,) = [sharding for sharding in plan.shardings if sharding.chosen]
    if not chosen.micro_batch_size:
        raise UserError(
            f"training takes {chosen.peak / 1e9:,.1f} GB with {settings.micro_batch_size or 1} "
            f"sequences of {settings.max_seq_length:,} tokens at once, of the {memory / 1e9:,.1f} "
            f"GB here; see `semhitok plan`, lower max_seq_length or micro_batch_size, or train less"
        )
    return chosen.micro_batch_size
