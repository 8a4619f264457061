"""Whether a run may resume from what an earlier one has left."""

from pathlib import Path
from typing import Any

from runtime.errors import UserError
from runtime.settings import Settings, build_settings, to_dict
from runtime.value_types import anywhere


def refuse_other_settings(path: Path, settings: Settings, then: dict[str, Any]) -> None:
    """Refuse to resume from a checkpoint with settings that it was not made with.

    Args:
        path: of the checkpoint.
        settings: of this run.
        then: plain values of the run that wrote it. Its `out` may be another: folders move.

    Raises:
        UserError: naming the settings that differ, or that this program does not have.
    """
    # Settings that are newer than the file had their default then.
    try:
        before, now = _flat(_built(settings, then)), _flat(to_dict(settings))
    except UserError as error:
        raise UserError(
            f"{path} was written by another phase or version ({error}); give another `out` folder, "
            f"or delete it to start again"
        ) from error
    keys = (now.keys() | before.keys()) - {"out"}
    changed = sorted(key for key in keys if now.get(key) != before.get(key))
    if changed:
        raise UserError(
            f"{path} was written by a run with another {', '.join(changed)}; "
            f"give those settings again, or another `out` folder, or delete it to start again"
        )


def _built(settings: Settings, then: dict[str, Any]) -> dict[str, Any]:
    """Plain values of an earlier run, with the defaults of what they lack."""
    with anywhere():  # what it read may have moved
        moved = then | {"out": to_dict(settings)["out"]}
        return to_dict(build_settings(type(settings), moved, "its settings"))


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        inner = _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {}
        flat |= inner or {f"{prefix}{key}": value}
    return flat
