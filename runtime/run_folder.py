"""The run folder: its settings and its environment, by which a run is told from any other."""

import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from runtime.errors import UserError
from runtime.files import write_json
from runtime.ranks import is_main_rank
from runtime.settings import Settings, save_settings, to_dict

CONFIG_NAME = "config.yaml"
RECORDED_PACKAGES = (
    "semhitok", "torch", "transformers", "accelerate", "deepspeed", "peft", "datasets",
    "sentencepiece",
)  # fmt: skip


def start_run(path: str | Path, settings: Settings | Mapping[str, Any], command: str) -> Path:
    """Make the folder of a run and write `config.yaml` and `environment.json` into it.

    Every rank may call this; rank 0 writes. A resumed run writes both files anew.

    Args:
        path: the folder.
        settings: the resolved settings, or plain values.
        command: what was run, as it could be typed again.

    Raises:
        UserError: if the folder cannot be made or written.
    """
    folder = make_folder(path)
    if is_main_rank():
        save_settings(settings, folder / CONFIG_NAME)
        record = describe_environment() | {
            "seed": _find_seed(to_dict(settings)),
            "command": command,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        write_json(folder / "environment.json", record)
    return folder


def make_folder(path: str | Path) -> Path:
    """Make a folder and its parents, if they are not there.

    Raises:
        UserError: if a file is in the way, or the place cannot be written.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        in_the_way = next(p for p in (path, *path.parents) if p.exists() and not p.is_dir())
        raise UserError(f"{in_the_way} is a file, not a folder; choose another folder") from error
    except OSError as error:
        raise UserError(
            f"cannot make the folder {path}: {error.strerror}; choose a place that can be written"
        ) from error
    return path


def describe_environment() -> dict[str, Any]:
    """Code version, interpreter, machine and package versions; nothing heavy is imported."""
    versions: dict[str, str | None] = {}
    for package in RECORDED_PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "git": _git_state(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": usable_cpus(),
        "packages": versions,
    }


def code_commit() -> str | None:
    """The commit of the code; None outside a checkout."""
    return (_git_state() or {"commit": None})["commit"]


def usable_cpus() -> int | None:
    """Cores this process may use, which on a shared machine can be fewer than it has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _git_state() -> dict[str, Any] | None:
    """Commit of the code and whether it has changes; None outside a checkout."""
    root = Path(__file__).resolve().parents[1]
    # An installed copy may lie inside somebody else's repository, whose commit would mislead.
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(root, "status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):  # no git, no commit yet, or a very slow disk
        return None


def _git(root: Path, *arguments: str) -> str:
    finished = subprocess.run(
        ["git", *arguments], cwd=root, check=True, capture_output=True, text=True, timeout=10
    )
    return finished.stdout.strip()


def _find_seed(values: dict[str, Any]) -> int | None:
    """The seed of a plain config: its own, else the first one found in a section."""
    if "seed" in values:
        return values["seed"]
    sections = (value for value in values.values() if isinstance(value, dict))
    return next((seed for section in sections if (seed := _find_seed(section)) is not None), None)
