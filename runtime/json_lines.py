"""Files of JSON, one value a line: written at once, read from a user, or growing as work is done.

A kill in the middle of writing leaves half a line at the end of a growing file. It is no line:
reading passes it by, and it is cut off before the file grows again.
"""

import difflib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from runtime.errors import UserError
from runtime.files import is_whole_text, unique_keys, write_text
from runtime.ranks import is_main_rank


def write_rows(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write a line for each object, atomically.

    Raises:
        UserError: as `write_text`.
    """
    return write_text(path, "".join(map(_line, rows)))


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """The objects of a file that this program wrote; none where there is no file."""
    path = Path(path)
    return [row for _, row in json_values(path)] if path.is_file() else []


def json_values(path: str | Path) -> Iterator[tuple[int, Any]]:
    """The values of a file with one JSON value a line, each with the number of its line.

    Lines end at a newline alone, since JSON leaves characters such as U+2028 in a text; a
    byte-order mark at the start is passed over, and so are blank lines.

    Raises:
        UserError: naming the line that is not JSON.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as text ({error})") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield number, parse_value(line)
            except ValueError as error:
                raise UserError(f"line {number} of {path} {error}") from error


def parse_value(line: str | bytes) -> Any:
    """The JSON value of one line.

    Raises:
        ValueError: in one clause, which follows what the line is called.
    """
    try:
        text = line.decode("utf-8-sig") if isinstance(line, bytes) else line
        return json.loads(text, object_pairs_hook=unique_keys)
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 (byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"is not valid JSON: {error.msg.lower()}") from error
    except (ValueError, RecursionError) as error:  # numbers of a million digits, a million brackets
        raise ValueError(f"is not valid JSON: {error}") from error


def parse_object(line: str, where: str, example: str) -> dict[str, Any]:
    """The JSON object of one line of a user's list, called `where` in errors: "line 7 of FILE".

    Raises:
        UserError: if it is no JSON, or no object, or contains an unpaired surrogate.
    """
    try:
        entry = parse_value(line)
    except ValueError as error:
        raise UserError(f"{where} {error}; write one object a line") from error
    if not isinstance(entry, dict):
        raise UserError(f"{where} is not an object; write it as {example}")
    if "\\u" in line and not is_whole_text(json.dumps(entry, ensure_ascii=False)):
        raise UserError(f"{where} contains an unpaired surrogate, \\ud800 to \\udfff; remove it")
    return entry


def first_given(row: Mapping[str, Any], *names: str, default: Any = None) -> Any:
    """The first value that is not null of a thing that goes by several names."""
    return next((row[name] for name in names if row.get(name) is not None), default)


def unread_fields(
    unread: Mapping[str, int], known: Sequence[str], meant: Mapping[str, str]
) -> dict[str, int]:
    """How often each field stands in a list that its reader does not know, by a name for notes.

    `meant` has the known field that another may have meant, where the two are not alike.
    """

    def called(name: str) -> str:
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
        perhaps = meant.get(name) or (close[0] if close else None)
        hint = f" (did you mean {perhaps!r}?)" if perhaps else ""
        return f"values of the field {name!r}{hint}"

    return {called(name): count for name, count in sorted(unread.items())}


def note_left_out(source: object, left_out: Mapping[str, int]) -> None:
    """Say on stderr, if this is rank 0, what of a user's file is not used."""
    if left_out and is_main_rank():
        listed = ", ".join(f"{count:,} {what}" for what, count in left_out.items())
        print(f"{source}: left out are {listed}", file=sys.stderr)


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
    text = "".join(map(_line, rows))
    try:
        with open(path, "ab") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}; free some space or choose another file; what "
            "is in it is kept, and the same command resumes after it"
        ) from error


def _line(row: Mapping[str, Any]) -> str:
    """Readable in every script; an unpaired surrogate, which UTF-8 cannot hold, stays an escape."""
    text = json.dumps(row, ensure_ascii=False)
    return (text if is_whole_text(text) else json.dumps(row)) + "\n"
