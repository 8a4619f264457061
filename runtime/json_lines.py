"""A file of JSON objects, one a line, that grows as work is done.

A kill in the middle of writing leaves half a line at the end. It is no line: reading passes it by,
and it is cut off before the file grows again.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from runtime.errors import UserError


def whole_lines(path: Path) -> list[bytes]:
    """The lines that are whole, without their ends; none where there is no file."""
    if not path.exists():
        return []
    *lines, _ = path.read_bytes().split(b"\n")
    return lines


def cut_torn_line(path: Path) -> None:
    """Cut off what a kill has left of a line."""
    if path.exists():
        data = path.read_bytes()
        if (end := data.rfind(b"\n") + 1) < len(data):
            os.truncate(path, end)


def append_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add a line for each object; they are on the disk when this returns.

    Raises:
        UserError: if the file cannot be written; what is in it stays.
    """
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    try:
        with open(path, "ab") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}; what is in it is kept, and the same command "
            "goes on after it"
        ) from error
