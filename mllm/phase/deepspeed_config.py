"""The DeepSpeed JSON of a run: what it may say, and how DeepSpeed starts, with a GPU or without.

The YAML says what is trained and how; the JSON says how it is spread over ranks. Where both could
say something, the JSON says "auto" or the same.
"""

import os
import shutil
import warnings
from argparse import Namespace
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mllm.phase.settings import MLLMPhaseConfig
from runtime.errors import UserError
from runtime.files import read_json

LEFT_TO_THE_YAML = (
    "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps",
    "gradient_clipping",
)  # fmt: skip


@dataclass
class Zero:
    """How a JSON spreads the model.

    Attributes:
        stage: of ZeRO; 0 is plain data parallel.
        offload: device of the optimiser's share, "none" for the rank's own.
    """

    stage: int = 0
    offload: str = "none"


def zero_of(config: MLLMPhaseConfig) -> Zero:
    """What the run's JSON says of ZeRO; a run without one is plain data parallel.

    Raises:
        UserError: if there is no such file, or what it says is no JSON of DeepSpeed's, or is
            nothing for this run.
    """
    if config.deepspeed is None:
        return Zero()
    zero = _section(_read(config.deepspeed), "zero_optimization", config.deepspeed)
    stage = zero.get("stage", 0)
    if stage not in (0, 1, 2, 3):
        raise UserError(
            f"The DeepSpeed config {config.deepspeed} fights the run's own settings: "
            f"zero_optimization.stage is {stage} there, but ZeRO has the stages 0 to 3: write one "
            f"of them in the JSON."
        )
    if stage == 3 and config.lora is not None and config.lora.load_in_4bit:
        raise UserError(
            f"lora.load_in_4bit packs the matrices that ZeRO-3 ({config.deepspeed}) would cut up: "
            f"take stage 2 or less, such as configs/deepspeed/zero2.json, or set "
            f"lora.load_in_4bit to false."
        )
    offload = _section(zero, "offload_optimizer", config.deepspeed)
    return Zero(stage, offload.get("device", "none"))


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"The DeepSpeed config {path} does not exist: see configs/deepspeed/.")
    values = read_json(path)
    if not isinstance(values, dict):
        raise UserError(
            f"The DeepSpeed config {path} must be one JSON object: see configs/deepspeed/."
        )
    return values


def _section(values: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    section = values.get(name)
    if not isinstance(section, dict | None):
        raise UserError(
            f"{name} of the DeepSpeed config {path} must be an object, not {section}: see "
            f"configs/deepspeed/."
        )
    return section or {}


def read_deepspeed(
    path: Path, config: MLLMPhaseConfig, micro: int, num_ranks: int
) -> dict[str, Any]:
    """The JSON, with what it leaves out as the YAML asks for it.

    Args:
        path: of the JSON.
        config: of the run.
        micro: rows per forward pass and rank.
        num_ranks: of the run.

    Raises:
        UserError: if there is none, or it says something else than the YAML.
    """
    values = _read(path)
    zero = zero_of(replace(config, deepspeed=path))
    for key, said, ours in _fights(values, config, micro, num_ranks):
        raise UserError(
            f"The DeepSpeed config {path} fights the run's own settings: {key} is {said} there, "
            f'but {ours}: write "auto" or the same in the JSON.'
        )
    for block, ours in (
        ("optimizer", f"optimizer {config.optimizer} with learning_rate {config.learning_rate:g}"),
        (
            "scheduler",
            f"warmup_steps {config.warmup_steps} and a cosine over {config.num_steps} steps",
        ),
    ):
        if block in values:
            kind = values[block].get("type") if isinstance(values[block], dict) else values[block]
            raise UserError(
                f"The DeepSpeed config {path} fights the run's own settings: its {block} block "
                f"says {kind}, but the run takes {ours}: take the block out of the JSON."
            )
    # Left out, clipping would mean 1.0, accumulation 1 and bf16 false, whatever the YAML says.
    filled = dict.fromkeys(LEFT_TO_THE_YAML, "auto") | {"bf16": {"enabled": "auto"}} | values
    if zero.stage == 3:
        # Else the trained weights would stay in DeepSpeed's own files.
        gather = {"stage3_gather_16bit_weights_on_model_save": True}
        filled["zero_optimization"] = filled["zero_optimization"] | gather
    return filled


def _fights(
    values: dict[str, Any], config: MLLMPhaseConfig, micro: int, num_ranks: int
) -> Iterator[tuple[str, Any, str]]:
    """(key, the JSON's value, what the run says) for each that differ."""
    steps = config.global_batch_size // (micro * num_ranks)
    wanted: dict[str, tuple[Any, str]] = {
        "train_batch_size": (config.global_batch_size, "global_batch_size is"),
        "train_micro_batch_size_per_gpu": (micro, "micro_batch_size is"),
        "gradient_accumulation_steps": (
            steps,
            f"global_batch_size over micro_batch_size and {num_ranks} ranks is",
        ),
        "gradient_clipping": (config.max_grad_norm, "max_grad_norm is"),
        "bf16.enabled": (config.bf16, "bf16 is"),
        "fp16.enabled": (False, "float16 is not trained in, and bf16 is"),
    }
    for key, (ours, phrase) in wanted.items():
        section, _, name = key.rpartition(".")
        block = values.get(section, {}) if section else values
        said = block.get(name, "auto") if isinstance(block, dict) else block
        if said != "auto" and said != ours:
            shown = config.bf16 if section == "fp16" else ours
            yield key, said, f"{phrase} {shown}"


def start_deepspeed(use_cpu: bool) -> None:
    """Start the process group before the Trainer does, which on a CPU must be gloo."""
    if "RANK" not in os.environ:
        raise UserError(
            "DeepSpeed needs a launcher, also for one process: write `torchrun --nproc_per_node N "
            "-m semhitok` in place of `semhitok`."
        )
    # One deprecation a step, of collectives that DeepSpeed calls.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    if not use_cpu:
        return
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    # Shared-memory collectives would be compiled from C++ at start; gloo needs nothing.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)


def make_universal(checkpoint: Path) -> None:
    """Turn the DeepSpeed part of a checkpoint into one that any number of ranks can load.

    Args:
        checkpoint: a whole `checkpoint-N`; the universal one is written into it.
    """
    from deepspeed.checkpoint import ds_to_universal

    (source,) = [p for p in checkpoint.glob("global_step*") if not p.name.endswith("_universal")]
    out = source.with_name(f"{source.name}_universal")
    shutil.rmtree(out, ignore_errors=True)  # of a conversion that was killed
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        ds_to_universal.main(
            Namespace(
                input_folder=str(source),
                output_folder=str(out),
                num_extract_workers=1,
                num_merge_workers=1,
                keep_temp_folder=False,
                strict=True,
                inject_missing_state=True,  # stages 1 and 2 ask for it, stage 3 passes it over
            )
        )


def repair_universal(optimizer: Any, groups: list[dict[str, Any]]) -> None:
    """Undo what loading a universal checkpoint does to an optimiser.

    ZeRO-3 gives all of its sub-groups one `step` tensor, which then counts each step several times,
    and the first group's settings, so that what must not decay decays.

    Args:
        optimizer: torch's, inside DeepSpeed's.
        groups: settings of its groups as the run made them.
    """
    for state in optimizer.state.values():
        if hasattr(state.get("step"), "clone"):
            state["step"] = state["step"].clone()
    for group, settings in zip(optimizer.param_groups, groups, strict=True):
        group |= settings
