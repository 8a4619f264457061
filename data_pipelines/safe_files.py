"""Reading what other people's files name: nothing outside the root, nothing without a limit."""

import itertools
import os
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from data_pipelines.images import MAX_FILE_SIZE
from data_pipelines.records import Reject
from runtime.errors import UserError
from runtime.json_lines import parse_value

MAX_LINE_SIZE = 16 * 1024 * 1024
"""Longest line of a JSONL or CSV file, in bytes."""


def check_name(name: str) -> None:
    """Refuse a name in somebody's JSON or tar that leads, or could lead, out of its root.

    A `ValueError`, in one clause, if it is absolute, goes up, or holds a NUL.
    """
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"the name of its file is {name!r}")
    if "\0" in name:
        raise ValueError("the name of its file holds a NUL character")
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("the name of its file is not UTF-8") from None
    shown = name if len(name) <= 100 else f"{name[:100]}..."
    windows = PureWindowsPath(name)
    if PurePosixPath(name).is_absolute() or windows.is_absolute() or windows.drive:
        raise ValueError(f"the name of its file is an absolute path ({shown})")
    if ".." in PurePosixPath(name).parts or ".." in windows.parts:
        raise ValueError(f"the name of its file leads upwards ({shown})")


def is_inside(root: Path, path: str | Path) -> bool:
    """Whether a path really lies below the root, wherever its links lead."""
    # realpath, unlike Path.resolve, does not raise on links that run in a circle.
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


def read_inside(root: Path, path: Path, max_file_size: int = MAX_FILE_SIZE) -> bytes:
    """Read a file that really lies below the root and is not too large; else a `ValueError`."""
    if not is_inside(root, path):
        raise ValueError(f"{path.name} is a symbolic link that leads out of the folder")
    if not os.path.isfile(path):  # which, unlike Path.is_file, takes a name that is too long
        known = os.path.lexists(path)
        raise ValueError(f"{path.name[:100]} is not {'a regular file' if known else 'there'}")
    file_size = path.stat().st_size
    if file_size > max_file_size:
        raise ValueError(f"{path.name} has {file_size:,} bytes; the limit is {max_file_size:,}")
    return path.read_bytes()


def read_named(root: Path, name: str) -> bytes:
    """Read the file that somebody's JSON names, relative to the root.

    A `ValueError`, in one clause, if the name or the file is not acceptable.
    """
    check_name(name)
    try:
        return read_inside(root, _in_any_form(root, name))
    except OSError as error:
        raise ValueError(f"{name[:100]} cannot be read ({error.strerror})") from error


def _in_any_form(root: Path, name: str) -> Path:
    """The path of a name, which the disk may hold in another Unicode form, as macOS does."""
    path = root / name
    if name.isascii() or os.path.lexists(path):
        return path
    path = root
    for part in PurePosixPath(name).parts:
        known = {unicodedata.normalize("NFC", other): other for other in os.listdir(path)}
        path /= known.get(unicodedata.normalize("NFC", part), part)
    return path


def note_unread(where: str | Path, names: list[str], why: str = "") -> list[str]:
    """One sentence about files, or folders ending in `/`, that nothing was read from; or none."""
    if not names:
        return []
    endings = (name.endswith("/") or os.path.splitext(name)[1].lower() for name in names)
    kinds = Counter("folder" if ending is True else ending or "no ending" for ending in endings)
    told = ", ".join(f"{count:,} × {kind}" for kind, count in kinds.most_common(5))
    what = "folders" if set(kinds) == {"folder"} else "files"
    return [
        f"{len(names):,} {what} below {where} {why}were not read ({told}), the first is {names[0]}"
    ]


def short_names(paths: list[str]) -> list[str]:
    """Names of files that tell them apart: without the ending and without the folders they share.

    For `data/en/0.parquet` and `data/de/0.parquet` they are `en/0` and `de/0`.
    """
    names = [path.rsplit("/", 1)[-1] for path in paths]
    if len(set(names)) < len(names):
        folders = list(zip(*(path.split("/")[:-1] for path in paths), strict=False))
        shared = next((i for i, each in enumerate(folders) if len(set(each)) > 1), len(folders))
        names = ["/".join(path.split("/")[shared:]) for path in paths]
    return [os.path.splitext(name)[0] for name in names]


def parse_line(line: bytes) -> dict[str, Any]:
    """Parse one line of a JSONL file; a `ValueError`, in one clause, if it is no JSON object."""
    if len(line) >= MAX_LINE_SIZE:
        raise ValueError(f"the line has {MAX_LINE_SIZE:,} bytes or more")
    try:
        value = parse_value(line)
    except ValueError as error:
        raise ValueError(f"the line {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"the line is a JSON {type(value).__name__}, not an object")
    return value


class JsonLines:
    """The lines of a JSONL file that are not blank, each parsed when it is asked for.

    There may be very many. One that is no JSON object is a `Reject`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open(path, "rb") as file:
                # 24 bytes a line, not the hundreds of a tuple.
                found = array("q", itertools.chain.from_iterable(_offsets(file)))
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
        self._offsets = np.array(found, dtype=np.int64).reshape(-1, 3)

    def __len__(self) -> int:
        return len(self._offsets)

    def __iter__(self) -> Iterator[dict[str, Any] | Reject]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, index: int) -> dict[str, Any] | Reject:
        _, start, length = self._offsets[index].tolist()
        with open(self.path, "rb") as file:
            file.seek(start)
            line = file.read(min(length, MAX_LINE_SIZE))  # a longer one is refused
        try:
            return parse_line(line)
        except ValueError as error:
            return Reject(self.name(index), str(error))

    def number(self, index: int) -> int:
        """The number of the line in the file, from 1."""
        return int(self._offsets[index, 0])

    def name(self, index: int) -> str:
        """What to call the line: `FILE:NUMBER`."""
        return f"{self.path.name}:{self.number(index)}"

    def named(self) -> Iterator[tuple[str, dict[str, Any] | Reject]]:
        """Each line, with what to call it."""
        return ((self.name(index), line) for index, line in enumerate(self))


def _offsets(file: Any) -> Iterator[tuple[int, int, int]]:
    """Number from 1, first byte and length in bytes of each line that is not blank."""
    number, start = 1, 0
    while True:
        line = file.readline(MAX_LINE_SIZE)
        if not line:
            return
        length, whole = len(line), line.endswith(b"\n")
        blank = not line.strip()
        while not whole:  # the rest of a line without end is passed over, not kept
            rest = file.readline(MAX_LINE_SIZE)
            length += len(rest)
            whole = not rest or rest.endswith(b"\n")
        if not blank:
            yield number, start, length
        start += length
        number += 1
