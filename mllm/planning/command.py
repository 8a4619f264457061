"""`semhitok plan`: what a phase trains, and what it takes of how many GPUs.

semhitok plan --config configs/mllm/qwen2.5-7b-instruct/mllm.yaml --gpus 8 phase=sft
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from mllm.init.settings import InitSettings
from mllm.phase.settings import PhaseSettings
from mllm.planning.plan import Plan, make_plan
from mllm.planning.settings import PlanSettings
from mllm.planning.text import print_plan
from runtime.files import write_json
from runtime.settings import load_settings
from runtime.value_types import anywhere


def plan(settings: PlanSettings) -> Path | None:
    """Print the plan of a run; neither weights, data nor a GPU are needed.

    Returns:
        The plan as JSON, where it was asked for.
    """
    beside = settings.config.with_name("init_mllm.yaml")
    init_file = settings.init or (beside if beside.is_file() else None)
    with anywhere():  # nothing is written there
        phase = load_settings(PhaseSettings, settings.config, settings.overrides)
        init = None if init_file is None else load_settings(InitSettings, init_file)
    planned = make_plan(phase, init, settings.gpus, settings.gpu_memory)
    print_plan(planned)
    return None if settings.out is None else write_json(settings.out, as_json(planned))


SETTINGS = {"bf16", "gradient_checkpointing", "max_seq_length", "global_batch_size", "lora"}
NUMBERS = (
    "num_gpus", "gpu_memory", "parameters", "learning_rates", "loss", "sequence_bytes",
    "tokens_per_step", "flops_per_step",
)  # fmt: skip


def as_json(plan: Plan) -> dict[str, Any]:
    """The numbers of a plan."""
    groups = [
        {
            **{name: getattr(group, name) for name in ("rule", "decays", "parts", "multiplier")},
            "num_parameters": group.num_parameters,
            "shapes": {
                name: list(parameter.shape)
                for name, parameter in zip(group.names, group.parameters, strict=True)
            },
        }
        for group in plan.groups
    ]
    shardings = [
        asdict(s) | {"device_bytes": s.states.device, "fits": s.micro_batch_size > 0}
        for s in plan.shardings
    ]
    return {
        **plan.settings.model_dump(include=SETTINGS),
        **{name: getattr(plan, name) for name in NUMBERS},
        "groups": groups,
        "activations": asdict(plan.activations),
        "shardings": shardings,
    }
