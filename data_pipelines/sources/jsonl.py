"""One JSON object a line: plain texts, conversations, or images by name with what belongs to them.

{"text": "Once upon a time ..."}
{"image": "cats/one.jpg", "caption": ["a cat", "a sleeping cat"]}

Each line is read by the columns that it has.
"""

from pathlib import Path

from data_pipelines.records import Reject
from data_pipelines.safe_files import line_offsets, parse_line, read_line
from data_pipelines.sources.columns import choose_columns, record_of_row, usual_columns
from data_pipelines.sources.rows import Found, Rows, guarded
from runtime.errors import UserError

LOOKED_AT = 100
"""Lines that are read first to learn the file's columns."""


def read_jsonl(path: Path, images: Path | None, columns: dict[str, str]) -> Rows:
    """The records of a file, a line each; see `columns.py` for the keys."""
    lines = line_offsets(path)
    if not len(lines):
        raise UserError(f"{path} is empty; it should hold one JSON object a line")
    known: dict[str, None] = {}
    for count, (_, start, length) in enumerate(lines.tolist()):
        is_enough = set(columns.values()) <= known.keys() and usual_columns({}, known)
        if count >= LOOKED_AT and is_enough:
            break
        try:
            known |= dict.fromkeys(parse_line(read_line(path, start, length)))
        except ValueError:
            continue  # becomes a reject when it is read
    choose_columns(columns, list(known), str(path))

    def read(index: int) -> Found:
        number, start, length = lines[index].tolist()
        try:
            row = parse_line(read_line(path, start, length))
        except ValueError as error:
            return Found(None, [Reject(f"{path.name}:{number}", str(error))])
        row = {key: value for key, value in row.items() if value is not None and value != []}
        name = f"{path.stem}-{number:07d}"
        return record_of_row(row, usual_columns(columns, row), name, images)

    return Rows(len(lines), lambda index: guarded(f"{path.name}:{lines[index][0]}", read, index))
