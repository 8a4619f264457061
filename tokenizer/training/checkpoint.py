"""One file from which a killed phase resumes to the identical result."""

import re
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from runtime.errors import UserError, says
from runtime.files import delete_temporaries, fingerprint, torch_could_not_write, whole_file
from runtime.resume import refuse_other_settings
from runtime.settings import Settings, to_dict

_ALWAYS = {"step", "settings", "phase", "teachers", "torch_rng", "cuda_rng"}
# Of a phase's teachers, which never change: a gigabyte at the paper's size, too much to read again
# for each checkpoint.
_digests: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()


def save_checkpoint(
    path: Path, phase: nn.Module, parts: dict[str, Any], settings: Settings, step: int
) -> None:
    """Write everything that the next step depends on; the old file stays until the new is whole.

    Args:
        path: the file.
        phase: whose frozen teachers are left out.
        parts: by name, everything else with a state: optimisers, discriminator, averages.
        settings: of the run.
        step: how many steps are done.
    """
    state = {
        "step": step,
        "settings": to_dict(settings),
        "phase": _trained(phase),
        "teachers": _digest_of_teachers(phase),
        **{name: part.state_dict() for name, part in parts.items()},
        "torch_rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all(),  # [] without a GPU
    }
    delete_temporaries(path)  # a killed run may have left as much as a whole checkpoint
    try:
        with whole_file(path) as temporary, open(temporary, "wb") as file:
            torch.save(state, file)
    except RuntimeError as error:
        if not torch_could_not_write(error):
            raise
        raise UserError(f"cannot write {path}: {says(error)}; free some space") from error


def load_checkpoint(path: Path, phase: nn.Module, parts: dict[str, Any], settings: Settings) -> int:
    """Restore `path` in place; return how many steps are done, 0 where there is no such file.

    Raises:
        UserError: if the file is damaged, lacks a part, or belongs to a run with other settings,
            another model or other teachers.
    """
    if not path.is_file():
        return 0
    state = _read(path)
    refuse_other_settings(path, settings, state["settings"])
    _refuse_other_model(path, state["phase"], phase)
    if state["teachers"] != _digest_of_teachers(phase):
        raise UserError(
            f"{path} was written with other weights in the teachers' folders; put those back, or "
            f"delete the file to start again"
        )
    phase.load_state_dict(state["phase"], strict=False)
    for name, part in parts.items():
        if name not in state:
            raise UserError(
                f"{path} lacks the state of the {name.replace('_', ' ')}, which this run trains "
                f"with; give the checkpoint that has it, or delete the file to start again"
            )
        try:
            part.load_state_dict(state[name])
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(
                f"{path} holds the state of another {name.replace('_', ' ')} than this run's; give "
                f"the checkpoint that belongs to it, or delete the file to start again"
            ) from error
    torch.set_rng_state(state["torch_rng"])
    if state["cuda_rng"]:
        torch.cuda.set_rng_state_all(state["cuda_rng"])
    return int(state["step"])


def _read(path: Path) -> dict[str, Any]:
    """The state in a file whose checksums are right."""
    try:
        with zipfile.ZipFile(path) as file:  # torch's format, which torch reads without a check
            if (damaged := file.testzip()) is not None:
                raise zipfile.BadZipFile(damaged)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (EOFError, RuntimeError, UnpicklingError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged; delete the file to start again") from error
    if not (isinstance(state, dict) and state.keys() >= _ALWAYS):
        raise UserError(
            f"{path} is no checkpoint of a training phase, or one of another version; move the "
            f"file away to start again"
        )
    return state


def _is_frozen(name: str) -> bool:
    """Teachers are read from their own folders again, never trained here."""
    return re.match(r"(model|auxiliary_teachers\.\d+)\.teacher\.", name) is not None


def _trained(phase: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in phase.state_dict().items() if not _is_frozen(name)}


def _digest_of_teachers(phase: nn.Module) -> str:
    """Hex SHA-256 of the frozen weights that a checkpoint leaves out."""
    if phase not in _digests:
        frozen = [item for item in sorted(phase.state_dict().items()) if _is_frozen(item[0])]
        _digests[phase] = fingerprint(
            part
            for name, value in frozen
            for part in (name, value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        )
    return _digests[phase]


def _refuse_other_model(path: Path, saved: dict[str, Tensor], phase: nn.Module) -> None:
    own = _trained(phase)
    again = "give another `out` folder, or delete the file to start again"
    if odd := sorted(own.keys() ^ saved.keys()):
        raise UserError(f"{path} does not fit this model ({', '.join(odd[:3])}); {again}")
    for name, value in own.items():
        if saved[name].shape != value.shape:
            raise UserError(
                f"{path} does not fit this model (another K, M or width: {name} is "
                f"{tuple(saved[name].shape)}, not {tuple(value.shape)}); {again}"
            )
