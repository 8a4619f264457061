"""The DeepSpeed JSON of a run, and what it may say.

The YAML says what is trained and how; the JSON says how it is spread over ranks. Where both could
say something, the JSON says "auto" or the same.
"""

from pathlib import Path
from typing import Any, NamedTuple

from mllm.phase.settings import PhaseSettings
from runtime.errors import UserError
from runtime.files import read_json

LEFT_TO_THE_YAML = (
    "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps",
    "gradient_clipping",
)  # fmt: skip


class Zero(NamedTuple):
    """How a JSON spreads the model: stage 0 is plain data parallel, `offload` the device of the
    optimiser's shard, "none" for the rank's own."""

    stage: int = 0
    offload: str = "none"


def zero_of(settings: PhaseSettings) -> Zero:
    """How the run's JSON sets ZeRO; a run without one is plain data parallel.

    Raises:
        UserError: if there is no such file, it is no DeepSpeed JSON, or it does not fit this run.
    """
    path = settings.deepspeed
    if path is None:
        return Zero()
    zero = _section(_read(path), "zero_optimization", path)
    stage = zero.get("stage", 0)
    if stage not in (0, 1, 2, 3):
        problem = f"zero_optimization.stage is {stage} there, but ZeRO has the stages 0 to 3"
        raise _conflict(path, f"{problem}; write one of them in the JSON")
    if stage == 3 and settings.in_4bit:
        raise UserError(
            f"lora.load_in_4bit packs the matrices that ZeRO-3 ({path}) would cut up; take stage 2 "
            f"or less, such as configs/deepspeed/zero2.json, or set lora.load_in_4bit to false"
        )
    offload = _section(zero, "offload_optimizer", path)
    return Zero(stage, offload.get("device", "none"))


def read_deepspeed(
    path: Path, settings: PhaseSettings, micro_batch_size: int, num_ranks: int
) -> dict[str, Any]:
    """The JSON, filled up with what the YAML asks for.

    Raises:
        UserError: if there is no such file, or it contradicts the YAML.
    """
    values = _read(path)
    zero = zero_of(settings.model_copy(update={"deepspeed": path}))
    _refuse_conflicts(path, values, settings, micro_batch_size, num_ranks)
    # Left out, clipping would mean 1.0, accumulation 1 and bf16 false, whatever the YAML says.
    filled = dict.fromkeys(LEFT_TO_THE_YAML, "auto") | {"bf16": {"enabled": "auto"}} | values
    if zero.stage == 3:
        # Else the trained weights would stay in DeepSpeed's own files.
        gather = {"stage3_gather_16bit_weights_on_model_save": True}
        filled["zero_optimization"] = filled["zero_optimization"] | gather
    return filled


def _refuse_conflicts(
    path: Path,
    values: dict[str, Any],
    settings: PhaseSettings,
    micro_batch_size: int,
    num_ranks: int,
) -> None:
    steps = settings.global_batch_size // (micro_batch_size * num_ranks)
    of_steps = f"global_batch_size over micro_batch_size and {num_ranks} ranks is"
    wanted: dict[str, tuple[Any, str]] = {
        "train_batch_size": (settings.global_batch_size, "global_batch_size is"),
        "train_micro_batch_size_per_gpu": (micro_batch_size, "micro_batch_size is"),
        "gradient_accumulation_steps": (steps, of_steps),
        "gradient_clipping": (settings.max_grad_norm, "max_grad_norm is"),
        "bf16.enabled": (settings.bf16, "bf16 is"),
        "fp16.enabled": (False, "float16 is never trained in, so it is"),
    }
    for key, (ours, phrase) in wanted.items():
        section, _, name = key.rpartition(".")
        block = values.get(section, {}) if section else values
        found = block.get(name, "auto") if isinstance(block, dict) else block
        if found not in ("auto", ours):
            fix = 'write "auto" or the same in the JSON'
            raise _conflict(path, f"{key} is {found} there, but {phrase} {ours}; {fix}")
    steps_after = f"{settings.num_steps} steps after warmup_steps {settings.warmup_steps}"
    ours_by_block = {
        "optimizer": f"{settings.optimizer} with learning_rate {settings.learning_rate:g}",
        "scheduler": f"a cosine over {steps_after}",
    }
    for block, ours in ours_by_block.items():
        if block in values:
            kind = values[block].get("type") if isinstance(values[block], dict) else values[block]
            problem = f"its {block} block says {kind}, but the run uses {ours}"
            raise _conflict(path, f"{problem}; take the block out of the JSON")


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"the DeepSpeed config {path} does not exist; see configs/deepspeed/")
    values = read_json(path)
    if not isinstance(values, dict):
        raise UserError(
            f"the DeepSpeed config {path} must be one JSON object; see configs/deepspeed/"
        )
    return values


def _section(values: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    section = values.get(name)
    if not isinstance(section, dict | None):
        raise UserError(
            f"{name} of the DeepSpeed config {path} must be an object, not {section}; see "
            f"configs/deepspeed/"
        )
    return section or {}


def _conflict(path: Path, problem: str) -> UserError:
    return UserError(f"the DeepSpeed config {path} contradicts the run's settings: {problem}")
