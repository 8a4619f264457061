"""One file from which a killed phase goes on to the identical result."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from runtime.config import build_config, to_dict
from runtime.errors import UserError
from runtime.files import delete_temporaries, fingerprint, whole_file

_ALWAYS = {"step", "config", "phase", "torch_rng", "cuda_rng"}  # in every checkpoint
# Of a phase's teachers, which never change: a gigabyte at the paper's size, too much to read anew
# for each checkpoint.
_digests: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()


def _is_frozen(name: str) -> bool:
    """Teachers are read from their own folders again, never trained here."""
    return name.startswith("model.teacher.") or (
        name.startswith("further_teachers.") and ".teacher." in name
    )


def save_checkpoint(
    path: Path, phase: nn.Module, parts: dict[str, Any], config: Any, step: int
) -> None:
    """Write everything that the next step depends on; the old file stays until the new is whole.

    Args:
        path: the file.
        phase: whose frozen teacher is left out.
        parts: by name, whatever else has a state: optimisers, discriminator, averages.
        config: the run's.
        step: how many steps are done.
    """
    state = {
        "step": step,
        "config": to_dict(config),
        "phase": {k: v for k, v in phase.state_dict().items() if not _is_frozen(k)},
        "teachers": _digest_of_teachers(phase),
        **{name: part.state_dict() for name, part in parts.items()},
        "torch_rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    delete_temporaries(path)  # a killed run may have left as much as a whole checkpoint
    with whole_file(path) as temporary:
        torch.save(state, temporary)


def load_checkpoint(path: Path, phase: nn.Module, parts: dict[str, Any], config: Any) -> int:
    """Restore `path` in place, if it is there; arguments as of `save_checkpoint`.

    Returns:
        How many steps are done; 0 without a checkpoint.

    Raises:
        UserError: if the file is damaged, lacks a part, or belongs to a run with other settings,
            another model or other teachers.
    """
    if not path.is_file():
        return 0
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (EOFError, RuntimeError, UnpicklingError) as error:
        raise UserError(f"{path} is damaged: delete the file to start anew.") from error
    if not (isinstance(state, dict) and state.keys() >= _ALWAYS):
        raise UserError(
            f"{path} is no checkpoint of a training phase: move the file away to start anew."
        )
    refuse_other_settings(path, config, state["config"])
    _refuse_other_model(path, state["phase"], phase)
    teachers = _digest_of_teachers(phase)
    if state.get("teachers", teachers) != teachers:  # older checkpoints do not say
        raise UserError(
            f"{path} was written beside teachers with other weights, in the same place: put those "
            f"back, or delete the file to start anew."
        )
    missing = [name for name in parts if name not in state]
    if missing:
        raise UserError(
            f"{path} holds no state of the {missing[0].replace('_', ' ')}, which this run trains "
            f"with: give the checkpoint that has it, or delete the file to start anew."
        )
    phase.load_state_dict(state["phase"], strict=False)
    for name, part in parts.items():
        try:
            part.load_state_dict(state[name])
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(
                f"{path} holds the state of another {name.replace('_', ' ')} than this run's: give "
                f"the checkpoint that belongs to it, or delete the file to start anew."
            ) from error
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
        UserError: naming the settings that differ, or that this phase does not have.
    """
    # Settings that are newer than the file had their default then.
    try:
        before = _flat(to_dict(build_config(type(config), then, "its settings")))
    except UserError as error:
        raise UserError(
            f"{path} was written by another phase or version ({error}): give another `out` folder, "
            f"or delete it to start anew."
        ) from error
    now = _flat(to_dict(config))
    keys = (now.keys() | before.keys()) - {"out"}
    changed = sorted(key for key in keys if now.get(key) != before.get(key))
    if changed:
        raise UserError(
            f"{path} was written by a run with another {', '.join(changed)}: "
            f"give those settings again, or another `out` folder, or delete it to start anew."
        )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        inner = _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {}
        flat |= inner or {f"{prefix}{key}": value}
    return flat


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


def _refuse_other_model(path: Path, saved: dict[str, Any], phase: nn.Module) -> None:
    own = {k: v for k, v in phase.state_dict().items() if not _is_frozen(k)}
    odd = sorted(own.keys() ^ saved.keys())
    if odd:
        raise UserError(
            f"{path} does not fit this model ({', '.join(odd[:3])}): "
            f"give another `out` folder, or delete the file to start anew."
        )
    for name, value in own.items():
        if saved[name].shape != value.shape:
            raise UserError(
                f"{path} does not fit this model (another K, M or width: {name} is "
                f"{tuple(saved[name].shape)}, not {tuple(value.shape)}): "
                f"give another `out` folder, or delete the file to start anew."
            )
