"""One JSON object a line: plain texts, conversations, or images by name with what belongs to them.

{"text": "Once upon a time ..."}
{"image": "cats/one.jpg", "caption": ["a cat", "a sleeping cat"]}
"""

from __future__ import annotations

from pathlib import Path

from data_pipelines.records import Record, Reject
from data_pipelines.safe_files import line_offsets, parse_line, read_line
from data_pipelines.sources.columns import choose_columns, record_of_row
from data_pipelines.sources.rows import Rows
from runtime.errors import UserError

LOOKED_AT = 100
"""Lines whose keys count as the file's columns."""


def read_jsonl(path: Path, images: Path | None, columns: dict[str, str]) -> Rows:
    """The records of a file, a line each; see `columns.py` for the keys.

    Raises:
        UserError: if the file cannot be read, is empty, or has no column of use.
    """
    lines = line_offsets(path)
    known: dict[str, None] = {}
    for _, start, length in lines[:LOOKED_AT].tolist():
        try:
            known |= dict.fromkeys(parse_line(read_line(path, start, length)))
        except ValueError:
            continue  # becomes a reject when it is read
    if not len(lines):
        raise UserError(f"{path} is empty; it should hold one JSON object a line")
    chosen = choose_columns(columns, list(known), str(path))

    def read(index: int) -> Record | Reject:
        number, start, length = lines[index].tolist()
        try:
            row = parse_line(read_line(path, start, length))
            return record_of_row(row, chosen, f"{path.stem}-{number:07d}", images)
        except ValueError as error:
            return Reject(f"{path.name}:{number}", str(error))

    return Rows(len(lines), read)
