"""One run at a time in a run folder: locked while it lasts, left alone when finished, resumed."""

import contextlib
import fcntl
import functools
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence, Set
from pathlib import Path
from typing import Any, TypeVar

from runtime.errors import UserError
from runtime.files import read_json, write_json
from runtime.ranks import is_main_rank
from runtime.run_folder import CONFIG_NAME, make_folder
from runtime.settings import Settings, build_settings, to_dict
from runtime.value_types import anywhere
from runtime.yaml_values import read_values

LOCK_NAME = ".lock"
FINISHED_NAME = "finished.json"

NOT_COMPARED = {"out", "overwrite"}
"""Settings that may differ between a run and its resumption: folders move."""

S = TypeVar("S", bound=Settings)


@contextlib.contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold a folder as the only run that writes into it; rank 0 does so for all ranks.

    The system lets go of the lock when the process ends, however it ends. A folder that the run has
    left empty is removed again.

    Raises:
        UserError: if another process holds it, or it cannot be made.
    """
    if not is_main_rank():
        yield
        return
    try:
        with _held(make_folder(folder) / LOCK_NAME, folder):
            yield
    finally:
        with contextlib.suppress(OSError):  # not empty
            folder.rmdir()


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold a file that grows as `run_lock` a folder, whatever else is written beside it."""
    with _held(path.with_name(f".{path.name}{LOCK_NAME}"), path):
        yield


def holds_output(evaluate: Callable[[S], Path]) -> Callable[[S], Path]:
    """An evaluation that has its folder, `settings.out`, for itself; see `open_output`."""

    @functools.wraps(evaluate)
    def alone(settings: S) -> Path:
        with open_output(settings.out, settings):  # type: ignore[attr-defined]
            return evaluate(settings)

    return alone


@contextlib.contextmanager
def open_output(folder: Path, settings: Settings, addable: Sequence[str] = ()) -> Iterator[None]:
    """Hold the folder of an evaluation, which computes again what it finds of the same settings.

    Args:
        folder: of the evaluation.
        settings: of the evaluation, as `start_run` saves them.
        addable: settings that a finished one may get where they were left at their defaults.

    Raises:
        UserError: as `run_lock`, and if an evaluation of other settings has finished there.
    """
    with run_lock(folder):
        config = folder / CONFIG_NAME
        if config.is_file() and (folder / "summary.json").is_file():
            then = read_values(config)
            fields = type(settings).model_fields
            left = {key for key in addable if then.get(key) == fields[key].default}
            again = f"name another --out, or delete {folder}"
            refuse_other_settings(config, settings, then, again, NOT_COMPARED | left)
        yield


@contextlib.contextmanager
def open_run(
    folder: Path, settings: Settings, start_again: Callable[[], object] | None
) -> Iterator[bool]:
    """Hold the folder of a run that is started, resumed, or left alone.

    Args:
        folder: of the run.
        settings: of the run.
        start_again: deletes its checkpoints, where it shall start again whatever is there.

    Yields:
        Whether a run with these settings has finished there.

    Raises:
        UserError: as `run_lock`, and if a run with other settings has finished there.
    """
    with run_lock(folder):
        if start_again is not None and is_main_rank():
            (folder / FINISHED_NAME).unlink(missing_ok=True)
            start_again()
        yield start_again is None and is_finished(folder, settings)


def is_finished(folder: Path, settings: Settings) -> bool:
    """Whether a run with these settings has finished in a folder, which says so on stderr.

    Raises:
        UserError: if a run with other settings has.
    """
    path = folder / FINISHED_NAME
    if not path.is_file():
        return False
    refuse_other_settings(path, settings, read_json(path)["settings"])
    if is_main_rank():
        print(
            f"{folder} holds the finished run of these settings; overwrite=true repeats it",
            file=sys.stderr,
        )
    return True


def mark_finished(folder: Path, settings: Settings) -> None:
    """Note that a run has written everything."""
    write_json(folder / FINISHED_NAME, {"settings": to_dict(settings)})


def refuse_other_settings(
    path: Path,
    settings: Settings,
    then: dict[str, Any],
    again: str = "give another `out` folder, or overwrite=true to start again",
    not_compared: Set[str] = NOT_COMPARED,
) -> None:
    """Refuse to resume from a file of a run that had other settings, `then` as plain values.

    `again` is what to do if those settings are not meant.

    Raises:
        UserError: naming the settings that differ, or that this program does not have.
    """
    moved = then | {key: value for key, value in to_dict(settings).items() if key in not_compared}
    try:
        with anywhere():  # what it read may have moved
            # Settings that are newer than the file had their default then.
            before = _flat(to_dict(build_settings(type(settings), moved, "its settings")))
    except UserError as error:
        raise UserError(
            f"{path} was written by another phase or version ({error}); {again}"
        ) from error
    now = _flat(to_dict(settings))
    changed = sorted(key for key in now.keys() | before.keys() if now.get(key) != before.get(key))
    if changed:
        raise UserError(
            f"{path} was written by a run with another {', '.join(changed)}; give those settings "
            f"again, {again}"
        )


@contextlib.contextmanager
def _held(path: Path, place: Path) -> Iterator[None]:
    """Hold the lock file `path` of a place, and delete it."""
    file = _locked(path, place)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()


def _locked(path: Path, place: Path) -> Any:
    """An open file that holds the lock of a place."""
    while True:
        try:
            file = open(path, "a+", encoding="utf-8")  # noqa: SIM115  (as long as the run lasts)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            raise UserError(
                f"another run ({holder}) is writing to {place}; wait until it ends, or give "
                f"another {'folder' if place == path.parent else 'file'}"
            ) from error
        with contextlib.suppress(FileNotFoundError):
            if os.stat(path).st_ino == os.fstat(file.fileno()).st_ino:
                break
        file.close()  # the holder before has deleted the file meanwhile
    with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
    return file


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        inner = _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {}
        flat |= inner or {f"{prefix}{key}": value}
    return flat
