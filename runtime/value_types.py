"""Types of settings that are checked before anything heavy is imported: a slip costs no wait.

    tokenizer: ModelFolder
    out: OutputFolder

Each is a plain path or text to the code that reads it.
"""

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from runtime.files import is_whole_text
from runtime.settings import Option
from runtime.yaml_values import find_config

_planned: ContextVar[tuple[Sequence[Path], Path | None]] = ContextVar("planned", default=((), None))


@contextlib.contextmanager
def planned(folders: Sequence[Path], run: Path | None = None) -> Iterator[None]:
    """Take folders for being there while settings are checked: an earlier step will write them.

    Of `run` only the folder itself is there, and not whatever may be named inside of it.
    """
    token = _planned.set((folders, run))
    try:
        yield
    finally:
        _planned.reset(token)


def anywhere() -> contextlib.AbstractContextManager[None]:
    """Take all that is read for being there, where settings are only looked at."""
    return planned([Path("."), Path("/")])


def _is_planned(path: Path) -> bool:
    folders, run = _planned.get()
    return path == run or any(path.is_relative_to(folder) for folder in folders)


def _file(path: Path) -> Path:
    path = path.expanduser()
    if _is_planned(path):
        return path
    if os.path.isdir(path):
        raise ValueError(f"{path} is a folder; name a file")
    if not os.path.isfile(path):
        if os.path.exists(path):  # <(...) of a shell, which can be read only once
            raise ValueError(f"{path} is a pipe or a device; name a file")
        raise ValueError(f"no such file: {path}")
    if not os.access(path, os.R_OK):
        raise ValueError(f"{path} cannot be read; check its permissions")
    return path


def _path(path: Path) -> Path:
    path = path.expanduser()
    if _is_planned(path):
        return path
    if not os.path.exists(path):
        raise ValueError(f"no such file or folder: {path}")
    return path


def _folder(path: Path) -> Path:
    path = path.expanduser()
    if _is_planned(path):
        return path
    if os.path.isfile(path):
        raise ValueError(f"{path} is a file; name a folder")
    if not os.path.isdir(path):
        raise ValueError(f"no such folder: {path}")
    return path


def _model_folder(path: Path) -> Path:
    path = _folder(path)
    if not _is_planned(path) and not (path / "config.json").is_file():
        inside = path / "model"
        hint = f"did you mean {inside}?" if (inside / "config.json").is_file() else "name another"
        raise ValueError(f"{path} holds no model (there is no config.json); {hint}")
    return path


def _new_file(path: Path) -> Path:
    path = path.expanduser()
    if not path.name or os.path.isdir(path):
        raise ValueError(f"{path} is a folder; name a file")
    _folder(path.parent)
    return path


def _output_folder(path: Path) -> Path:
    path = path.expanduser()
    if _is_planned(path):
        return path
    nearest = next(place for place in (path, *path.absolute().parents) if os.path.exists(place))
    if not nearest.is_dir():
        raise ValueError(f"{nearest} is a file, not a folder; choose another folder")
    if not os.access(nearest, os.W_OK):
        raise ValueError(f"{nearest} cannot be written; choose another folder")
    return path


def _config_file(path: Path) -> Path:
    return _file(find_config(str(path)))


def _prompts_file(path: Path) -> Path:
    if str(path) == "-":
        return path
    if path.expanduser().is_dir() or _is_planned(path):
        return _folder(path)
    path = _file(path)
    if path.suffix == ".parquet":
        return path
    if path.suffix.lower() in (".csv", ".tsv"):
        raise ValueError(f"{path} is a table; give its prompts one a line, or as JSONL or parquet")
    try:
        with open(path, encoding="utf-8-sig") as file:
            has_prompt = any(line.strip() for line in file)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text; give one prompt a line") from error
    if not has_prompt:
        raise ValueError(f"{path} is empty; give one prompt a line")
    return path


def _text(text: str) -> str:
    if not text.strip():
        raise ValueError("the text is empty; write at least one word")
    if not is_whole_text(text):
        raise ValueError("the text contains an unpaired surrogate; remove it")
    return text


def _named(value: Any) -> Any:
    """Refuse an empty name, which `Path` would read as the working folder; a path becomes text."""
    value = str(value) if isinstance(value, Path) else value
    if isinstance(value, str) and not value.strip():
        raise ValueError("the name is empty; name a file or folder")
    return value


def _folder_or_url(place: str) -> str:
    return place if "://" in place else str(_folder(Path(place)))


def _output_or_url(place: str) -> str:
    return place if "://" in place else str(_output_folder(Path(place)))


def split_names(value: Any) -> Any:
    """The names in `a,b,c`; a list is taken as it is."""
    names = [name.strip() for name in value.split(",")] if isinstance(value, str) else value
    if isinstance(names, list) and (not all(names) or len(set(names)) < len(names)):
        raise ValueError(f"give different names with commas between them, not {value!r}")
    return names


def _num_bytes(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"(\d+\.?\d*)\s*(G|GB|GiB|M|MB|MiB)", value.strip())
    if found is None or float(found[1]) == 0:
        raise ValueError(f"give a size such as 80G or 80GiB, not {value!r}")
    unit = {"G": (10**9, 2**30), "M": (10**6, 2**20)}[found[2][0]]
    return int(float(found[1]) * unit[found[2].endswith("iB")])


def _num_workers(number: int) -> int:
    most = max(16, 4 * (os.cpu_count() or 1))
    if number > most:
        raise ValueError(f"{number} processes are too many for this machine; give at most {most}")
    return number


_NAMED = BeforeValidator(_named)

ExistingFile = Annotated[Path, _NAMED, AfterValidator(_file), Option("FILE")]
"""A file that is there and can be read."""
ExistingPath = Annotated[Path, _NAMED, AfterValidator(_path), Option("PATH")]
"""A file or folder that is there."""
ExistingFolder = Annotated[Path, _NAMED, AfterValidator(_folder), Option("DIR")]
"""A folder that is there."""
FolderOrURL = Annotated[str, _NAMED, AfterValidator(_folder_or_url), Option("DIR")]
"""A folder that is there, or the URL of one, which is checked when it is opened."""
ModelFolder = Annotated[Path, _NAMED, AfterValidator(_model_folder), Option("DIR")]
"""A folder that `save_pretrained` wrote."""
NewFile = Annotated[Path, _NAMED, AfterValidator(_new_file), Option("FILE")]
"""A file to write, in a folder that is there."""
FolderName = Annotated[str, _NAMED, AfterValidator(os.path.expanduser)]
"""A folder, or the hub name or URL of one, which is checked when it is opened: plans need none."""
PathName = Annotated[Path, _NAMED, AfterValidator(Path.expanduser)]
"""A file or folder, likewise."""
OutputFolder = Annotated[Path, _NAMED, AfterValidator(_output_folder), Option("DIR")]
"""A folder that is there, or can be made."""
OutputFolderOrURL = Annotated[str, _NAMED, AfterValidator(_output_or_url), Option("DIR")]
"""A folder to write, or the URL of one in an object store."""
ConfigFile = Annotated[Path, _NAMED, AfterValidator(_config_file), Option("FILE")]
"""A YAML file; `configs/...` is also found among the shipped files."""
PromptsFile = Annotated[Path, _NAMED, AfterValidator(_prompts_file), Option("FILE")]
"""A file of prompts: parquet, or text that is not blank; "-" is standard input. A folder may be one
of prepared data."""
NumWorkers = Annotated[int, Field(ge=0), AfterValidator(_num_workers), Option("N")]
"""Processes that decode beside the model, no more than the machine can bear."""
Text = Annotated[str, AfterValidator(_text), Option("TEXT")]
"""A text that is not blank."""
Names = Annotated[list[Text], BeforeValidator(split_names), Option("NAME,...", commas=True)]
"""Different names; on the command line with commas between them."""
NumBytes = Annotated[int, BeforeValidator(_num_bytes), Field(gt=0), Option("SIZE")]
"""Bytes, written as 80G or 80GB (10⁹ each) or 80GiB (2³⁰ each); M and MiB likewise."""
