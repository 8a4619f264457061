"""Which checkpoint a run resumes from: the newest that was written completely.

A checkpoint is whole once it holds `whole.json`, which rank 0 writes after every rank has finished;
it lists the files with their checksums, so that a truncated or damaged copy is found too. While a
checkpoint is being written or deleted it holds `unfinished.json`: a run killed there leaves nothing
to repair, and the next one resumes from the checkpoint before.
"""

import shutil
from pathlib import Path
from typing import NamedTuple

from runtime.errors import UserError
from runtime.files import file_sha256, read_json, write_json

CHECKPOINTS = "checkpoints"
"""Their folder in that of the run."""
WHOLE, UNFINISHED = "whole.json", "unfinished.json"


class Checkpoint(NamedTuple):
    """A whole one: `checkpoint-N`, of N optimiser steps, written by a run of `num_ranks`."""

    folder: Path
    step: int
    num_ranks: int


def begin(folder: Path) -> None:
    """Mark a checkpoint that is about to be written; leftovers of a killed run are deleted."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_json(folder / UNFINISHED, {"step": _step(folder)})


def finish(folder: Path, num_ranks: int) -> None:
    """Mark a checkpoint that every rank has written, and delete the ones before it."""
    mode = (folder / UNFINISHED).stat().st_mode  # safetensors lets their owner alone read its files
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != UNFINISHED:
            path.chmod(mode)
            files[str(path.relative_to(folder))] = file_sha256(path)
    whole = {"step": _step(folder), "num_ranks": num_ranks, "files": files}
    write_json(folder / WHOLE, whole)
    (folder / UNFINISHED).unlink()
    for other in _folders(folder.parent):
        if other != folder:
            _delete(other)


def delete_all(root: Path) -> None:
    """Delete the checkpoints of a finished run; a kill meanwhile damages none."""
    for folder in _folders(root):
        _delete(folder)
    shutil.rmtree(root, ignore_errors=True)


def newest(root: Path) -> Checkpoint | None:
    """The newest whole checkpoint of `root`; None where no run has come to its first.

    Raises:
        UserError: if there are checkpoints but no whole one, and one is not marked as being
            written: it was copied or deleted in part.
    """
    damaged: list[str] = []
    for folder in reversed(_folders(root)):
        problem = _problem(folder)
        if problem is None:
            whole = read_json(folder / WHOLE)
            return Checkpoint(folder, whole["step"], whole["num_ranks"])
        if not (folder / UNFINISHED).is_file():
            damaged.append(f"{folder.name}: {problem}")
    if damaged:
        raise UserError(
            f"{root} holds no whole checkpoint ({damaged[0]}), so the run cannot resume; restore "
            f"its files, or delete {root} to start again"
        )
    return None


def _problem(folder: Path) -> str | None:
    """Why a run cannot resume from a checkpoint; None where it can."""
    if (folder / UNFINISHED).is_file():
        return "it was not written completely"
    if not (folder / WHOLE).is_file():
        return f"no {WHOLE}"
    try:
        whole = read_json(folder / WHOLE)
        files = whole["files"]
        if whole["step"] != _step(folder):
            return f"it was written as step {whole['step']}"
    except (UserError, KeyError, TypeError):
        return f"{WHOLE} cannot be read"
    for name, checksum in files.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if file_sha256(folder / name) != checksum:
            return f"the checksum of {name} differs"
    return None


def _folders(root: Path) -> list[Path]:
    """Checkpoints by step, whole or not."""
    return sorted((p for p in root.glob("checkpoint-*") if p.is_dir()), key=_step)


def _step(folder: Path) -> int:
    number = folder.name.rpartition("-")[2]
    return int(number) if number.isdigit() else -1


def _delete(folder: Path) -> None:
    write_json(folder / UNFINISHED, {"step": _step(folder)})
    shutil.rmtree(folder, ignore_errors=True)
