"""A folder of images, captioned by text files of the same name or by one table.

    cats/one.jpg    cats/one.txt    one caption a line; blank lines don't count
    cats/two.png                    no text file: an image without a caption
    metadata.jsonl                  or metadata.csv: `file_name` and `caption` (or `text`) a line,
                                    as `datasets` reads it; then text files are not looked at

A record's id is the image's path below the folder, such as `cats/one.jpg`.
"""

from __future__ import annotations

import csv
import io
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from data_pipelines.images import MAX_FILE_SIZE
from data_pipelines.records import Record, Reject
from data_pipelines.safe_files import line_offsets, parse_line, read_inside, read_line
from data_pipelines.sources.columns import choose_columns, texts_of
from data_pipelines.sources.rows import Rows, guarded
from runtime.errors import UserError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"})
"""File names taken for images, in any case; what a file is gets decided by its content."""

TABLES = ("metadata.jsonl", "metadata.csv")
"""Tables of captions that are found by themselves."""

MAX_CAPTION_FILE_SIZE = 1024 * 1024
"""Largest text file, in bytes."""


def list_images(root: Path) -> list[Path]:
    """List the images below a folder, in the order of their ids.

    Folders behind symbolic links are not entered, so there are no cycles.

    Raises:
        UserError: if the folder is missing or holds no image.
    """
    if not root.is_dir():
        raise UserError(f"there is no folder {root}")
    paths = [
        Path(folder, name)
        for folder, _, names in os.walk(root)
        for name in names
        if Path(name).suffix.lower() in SUFFIXES
    ]
    if not paths:
        raise UserError(f"the folder {root} holds no image ({', '.join(sorted(SUFFIXES))})")
    return sorted(paths, key=lambda path: _record_id(root, path))


def read_folder(root: Path, captions: Path | None = None, columns: dict[str, str] = {}) -> Rows:  # noqa: B006  (only read)
    """The images below a folder with their captions, in the order of their ids.

    Symbolic links to files inside the folder are followed; links out of it are rejected, so that
    a downloaded folder cannot pull private files into a data set. A line of a table that names no
    image of the folder becomes a reject.

    Args:
        root: the folder.
        captions: a JSONL or CSV file; else `TABLES` are looked for.
        columns: which of its columns are `image` and `caption`.

    Raises:
        UserError: if the folder is missing or holds no image, the table cannot be read, or
            columns are given and there is no table.
    """
    paths = list_images(root)
    table = captions or next((root / name for name in TABLES if (root / name).is_file()), None)
    if table is None and columns:
        told = ",".join(f"{key}={column}" for key, column in columns.items())
        raise UserError(
            f"{root} has no table of captions ({' or '.join(TABLES)}) in which {told} could say "
            "which column is what: name one with captions=FILE, or leave that away"
        )
    if table is None:
        return Rows(len(paths), lambda index: _read(root, paths[index]))
    found, rejects = _read_table(table, columns)
    ids = {_record_id(root, path) for path in paths}
    rejects += [
        Reject(f"{table.name}#{name}", "there is no such image in the folder")
        for name in sorted(found.keys() - ids)
    ]

    def read(index: int) -> Record | Reject:
        if index >= len(paths):
            return rejects[index - len(paths)]
        return _read(root, paths[index], found[_record_id(root, paths[index])])

    return Rows(len(paths) + len(rejects), read)


def _read(root: Path, path: Path, captions: list[str] | None = None) -> Record | Reject:
    """Read one image, and its text file where no table tells the captions."""
    record_id = _record_id(root, path)
    try:
        image = read_inside(root, path, MAX_FILE_SIZE)
        if captions is None:
            captions = _captions(root, path.with_suffix(".txt"))
    except ValueError as error:
        return Reject(record_id, str(error))
    except OSError as error:
        return Reject(record_id, f"cannot be read ({error.strerror})")
    return Record(record_id, image, captions, [])


def _record_id(root: Path, path: Path) -> str:
    """Return the path below the root, with bytes that are no UTF-8 written as escapes."""
    return path.relative_to(root).as_posix().encode("utf-8", "backslashreplace").decode("utf-8")


def _captions(root: Path, path: Path) -> list[str]:
    """Read the captions of a text file that may not exist."""
    if not path.exists() and not path.is_symlink():
        return []
    data = read_inside(root, path, MAX_CAPTION_FILE_SIZE)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"the caption file is not UTF-8 (byte {error.start})") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _read_table(
    path: Path, columns: dict[str, str]
) -> tuple[defaultdict[str, list[str]], list[Reject]]:
    """Read image name -> captions from a JSONL or CSV file, and the lines that are of no use."""
    rows = list(_csv_rows(path)) if path.suffix.lower() == ".csv" else list(_jsonl_rows(path))
    known: dict[str, None] = {}  # a set that keeps the order
    for row in rows:
        if isinstance(row, dict):
            known |= dict.fromkeys(row)
    chosen = choose_columns(columns, list(known), str(path))
    if "image" not in chosen or "caption" not in chosen:
        raise UserError(
            f"{path} needs a column `file_name` and one of captions, or image=COLUMN and "
            f"caption=COLUMN; its columns are: {', '.join(known)}"
        )
    found: defaultdict[str, list[str]] = defaultdict(list)
    rejects = []
    for number, row in enumerate(rows):

        def one(row: dict | Reject = row) -> Reject | Record:
            if isinstance(row, Reject):
                return row
            name = str(row.get(chosen["image"]))
            found[name] += texts_of(row.get(chosen["caption"]), "caption")
            return Record(name, None)

        item = guarded(path.name, number, one)
        if isinstance(item, Reject):
            rejects.append(item)
    return found, rejects


def _jsonl_rows(path: Path) -> Iterator[dict | Reject]:
    for number, start, length in line_offsets(path).tolist():
        try:
            yield parse_line(read_line(path, start, length))
        except ValueError as error:
            yield Reject(f"{path.name}:{number}", str(error))


def _csv_rows(path: Path) -> Iterator[dict | Reject]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    try:
        for row in csv.DictReader(io.StringIO(text, newline="")):
            row.pop(None, None)  # cells beyond the header's
            yield row
    except csv.Error as error:
        raise UserError(f"{path} is not valid CSV ({error})") from error
