"""Starting DeepSpeed, with a GPU or without, and resuming its runs on another number of ranks."""

import os
import shutil
import warnings
from argparse import Namespace
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from runtime.errors import UserError


def start_deepspeed(use_cpu: bool) -> None:
    """Start the process group before the Trainer does, which on a CPU must be gloo."""
    if "RANK" not in os.environ:
        raise UserError(
            "DeepSpeed needs a launcher, also for one process; write `torchrun --nproc_per_node N "
            "-m semhitok` in place of `semhitok`"
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
    """Turn the DeepSpeed part of a `checkpoint-N` into one that any number of ranks can load."""
    from deepspeed.checkpoint import ds_to_universal

    (source,) = [p for p in checkpoint.glob("global_step*") if not p.name.endswith("_universal")]
    out = source.with_name(f"{source.name}_universal")
    shutil.rmtree(out, ignore_errors=True)  # of a conversion that was killed
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        # Stages 1 and 2 ask for the missing state, stage 3 passes it over.
        options = Namespace(
            input_folder=str(source), output_folder=str(out), num_extract_workers=1,
            num_merge_workers=1, keep_temp_folder=False, strict=True, inject_missing_state=True,
        )  # fmt: skip
        ds_to_universal.main(options)


def repair_universal(optimizer: Any, groups: list[dict[str, Any]]) -> None:
    """Undo what loading a universal checkpoint does to an optimiser.

    ZeRO-3 gives all of its sub-groups one `step` tensor, which then counts each step several times,
    and the first group's settings, so that what must not decay decays. `optimizer` is torch's,
    inside DeepSpeed's, and `groups` are settings of its groups as the run made them.
    """
    for state in optimizer.state.values():
        if hasattr(state.get("step"), "clone"):
            state["step"] = state["step"].clone()
    for group, settings in zip(optimizer.param_groups, groups, strict=True):
        group |= settings
