"""A plan as text: parameters, optimiser groups with their shapes, and the table of ZeRO stages."""

import re
from collections import Counter
from typing import TYPE_CHECKING

from mllm.phase.parameter_groups import ParameterGroup
from mllm.phase.settings import LoRAConfig
from mllm.planning.model import LORA_LAYERS, NEW_ROWS

if TYPE_CHECKING:
    from mllm.planning.plan import Placement, Plan

PARTS = {  # names of `plan_model.parts` and of `PartRates`
    "language model layers": "layers",
    "text rows": "text_rows",
    "text head": "text_rows",
    "image adapter": "image_adapter",
    "image head": "image_head",
    LORA_LAYERS: "layers",
    NEW_ROWS: "text_rows",
}
OF_THE_LLM = ("language model layers", "text rows", "text head")  # frozen beside LoRA layers
COLUMNS = (
    "ZeRO", "weights", "gradients", "master", "optimiser", "buffers", "on host",
    "micro-batch", "accumulate", "peak",
)  # fmt: skip


def print_plan(plan: "Plan") -> None:
    """Print a plan; sizes are GB of 10⁹ bytes on one rank."""
    print_parts(plan.parameters, plan.rates, plan.lora)
    print_groups(plan.groups)
    kept = plan.activations
    mark = {True: " *", False: ""}
    print(f"one row of {plan.row_length:,} tokens")
    print(f"  activations               {_gb(kept.layers)}{mark[not plan.gradient_checkpointing]}")
    print(
        f"  with checkpointing        {_gb(kept.checkpointed)}{mark[plan.gradient_checkpointing]}"
    )
    print(f"  attention mask            {_gb(kept.mask)}")
    print(f"  logits and loss           {_gb(plan.loss)}")
    print(
        f"a step: {plan.global_batch_size:,} rows, {plan.tokens_per_step:,} tokens, "
        f"{plan.flops_per_step:.3g} FLOPs"
    )
    precision = "bfloat16" if plan.bf16 else "float32"
    print(
        f"each of {plan.num_gpus} GPUs with {_gb(plan.gpu_memory).strip()} GB, {precision}, sizes "
        f"in GB (* as the config says)"
    )
    print("  " + "".join(f"{name:>12}" for name in COLUMNS))
    for placement in plan.placements:
        print("  " + "".join(f"{cell:>12}" for cell in _cells(placement)))


def print_parts(
    parameters: dict[str, int], rates: dict[str, float], lora: LoRAConfig | None = None
) -> None:
    """Print a line for each part of the model: its parameters, and how it trains.

    Args:
        parameters: numbers by part, as `plan_model.parts` counts them.
        rates: learning rates of the parts that train.
        lora: of the phase.
    """
    if lora is not None:
        targets = ", ".join(lora.targets) or "all linear maps of the decoder"
        print(f"LoRA: rank {lora.rank}, alpha {lora.alpha:g}, on {targets}")
    print("parameters")
    for name, count in parameters.items():
        rate = rates.get(PARTS.get(name, ""))
        if lora is not None and name in OF_THE_LLM:
            rate = None
        trains = "frozen" if rate is None else f"learning rate {rate:g}"
        if lora is not None and lora.load_in_4bit and name == "language model layers":
            trains += ", in 4 bits"
        print(f"  {name:28}{count:>18,}  {trains}")
    print(f"  {'in all':28}{sum(parameters.values()):>18,}")


def print_groups(groups: list[ParameterGroup]) -> None:
    """Print the optimiser's groups with the shapes in them."""
    for group in groups:
        decay = "decays" if group.decays else "no decay"
        rate = "" if group.rate == 1 else f", {group.rate:g} × the learning rate"
        print(f"optimiser group: {group.rule}, {decay}{rate}, {group.num_parameters:,} parameters")
        for line in shapes(group):
            print(f"  {line}")


def shapes(group: ParameterGroup) -> list[str]:
    """A line for each kind of parameter: its name with `*` for layer numbers, shape and count."""
    counts = Counter(
        (re.sub(r"\.\d+\.", ".*.", name), tuple(parameter.shape))
        for name, parameter in zip(group.names, group.parameters, strict=True)
    )
    return [f"{count:>4} × {name} {shape}" for (name, shape), count in counts.items()]


def _cells(placement: "Placement") -> list[str]:
    held = placement.states
    name = f"{placement.stage}{' + host' if placement.offload else ''}"
    sizes = (held.weights, held.gradients, held.master, held.optimizer, held.buffers, held.host)
    fits = placement.micro_batch_size > 0
    return [
        ("* " if placement.chosen else "") + name,
        *(_gb(size).strip() for size in sizes),
        str(placement.micro_batch_size) if fits else "too large",
        str(placement.accumulation) if fits else "–",
        _gb(placement.peak).strip(),
    ]


def _gb(size: int) -> str:
    return f"{size / 1e9:9.3g}" if size < 1e9 else f"{size / 1e9:9.1f}"
