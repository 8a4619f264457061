"""One file from which a killed phase goes on to the identical result."""

import os
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import nn

from semhitok.config import to_dict
from semhitok.errors import UserError


def _is_frozen(name: str) -> bool:
    """Teachers are read from their own folders again, never trained here."""
    return name.startswith("model.teacher.") or (
        name.startswith("further_teachers.") and ".teacher." in name
    )


def save_checkpoint(
    path: Path, phase: nn.Module, optimizer: torch.optim.Optimizer, config: Any, step: int
) -> None:
    """Write everything that the next step depends on; the old file stays until the new is whole."""
    state = {
        "step": step,
        "config": to_dict(config),
        "phase": {k: v for k, v in phase.state_dict().items() if not _is_frozen(k)},
        "optimizer": optimizer.state_dict(),
        "torch_rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load_checkpoint(
    path: Path, phase: nn.Module, optimizer: torch.optim.Optimizer, config: Any
) -> int:
    """Restore `path` in place, if it is there.

    Returns:
        How many steps are done; 0 without a checkpoint.

    Raises:
        UserError: if the file belongs to a run with other settings.
    """
    if not path.is_file():
        return 0
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (EOFError, RuntimeError, UnpicklingError) as error:
        raise UserError(f"{path} is damaged: delete the file to start anew.") from error
    refuse_other_settings(path, config, state["config"])
    missing, unexpected = phase.load_state_dict(state["phase"], strict=False)
    missing = [key for key in missing if not _is_frozen(key)]
    if missing or unexpected:
        raise UserError(
            f"{path} does not fit this model ({', '.join([*missing, *unexpected][:3])}): "
            f"give another `out` folder, or delete the file to start anew."
        )
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["torch_rng"])
    if state["cuda_rng"]:
        torch.cuda.set_rng_state_all(state["cuda_rng"])
    return int(state["step"])


def refuse_other_settings(path: Path, config: Any, then: dict[str, Any]) -> None:
    """Refuse to go on from a checkpoint with settings that it was not made with.

    Args:
        path: of the checkpoint.
        config: of this run.
        then: plain values of the run that wrote it. Its `out` may be another: folders move.

    Raises:
        UserError: naming the settings that differ.
    """
    now = to_dict(config)
    keys = (now.keys() | then.keys()) - {"out"}
    changed = sorted(key for key in keys if now.get(key) != then.get(key))
    if changed:
        raise UserError(
            f"{path} was written by a run with another {', '.join(changed)}: "
            f"give those settings again, or another `out` folder, or delete it to start anew."
        )
