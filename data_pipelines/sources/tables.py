"""Parquet and Arrow files with a column of images, or of texts; and JSONL, a row a line.

Files that `semhitok prepare` wrote come back as they are; of others `columns.py` says which column
is what. A row group, or a record batch, is held at a time. Each line of JSONL is read by the
columns that it has:

    {"text": "Once upon a time ..."}
    {"image": "cats/one.jpg", "caption": ["a cat", "a sleeping cat"]}
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.manifest import WRITTEN_BESIDE
from data_pipelines.records import SCHEMA, Reject, record_from_row
from data_pipelines.safe_files import JsonLines, note_unread, short_names
from data_pipelines.shards import map_batches
from data_pipelines.sources.columns import choose_columns, is_absent, record_of_row, usual_columns
from data_pipelines.sources.rows import Found, Rows, guarded
from data_pipelines.sources.spec import USUAL
from runtime.errors import UserError, says
from runtime.storage import is_remote, left_out, matching, reading

LOOKED_AT = 100
"""Lines of JSONL that are read first to learn the columns."""


class _Table:
    """One file, on disk or (parquet alone) in a store: its columns, and its rows by group."""

    def __init__(self, path: str, kind: str):
        self.path = path
        try:
            if kind == "parquet":
                with _parquet(path) as table:
                    self.schema, footer = table.schema_arrow, table.metadata
                self.sizes = [footer.row_group(i).num_rows for i in range(footer.num_row_groups)]
                self.group: Callable[[int], pa.Table] = self._row_group
            else:
                self._batches = map_batches(path)
                self.schema = self._batches[0].schema if self._batches else pa.schema([])
                self.sizes = [batch.num_rows for batch in self._batches]
                self.group = lambda number: pa.Table.from_batches([self._batches[number]])
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path} is no whole {kind} file ({says(error)})") from error

    def _row_group(self, number: int) -> pa.Table:
        with _parquet(self.path) as table:  # opened anew: processes must not share it
            return table.read_row_group(number)


@contextlib.contextmanager
def _parquet(path: str) -> Iterator[pq.ParquetFile]:
    with reading(path) as file, pq.ParquetFile(file) as table:
        yield table


def read_tables(location: str, kind: str, images: Path | None, columns: dict[str, str]) -> Rows:
    """The rows of the "parquet" or "arrow" files of a `location` of `matching`, by their names.

    A column of files' names needs the folder of `images`; for `columns` see `columns.py`.
    """
    if kind == "arrow" and is_remote(location):
        raise UserError(f"Arrow files are mapped into memory: fetch {location} to a disk first")
    paths = matching(location, f".{kind}")
    stems = short_names(paths)
    tables = [_Table(path, kind) for path in paths]
    schema = tables[0].schema
    for table in tables:
        if sorted(table.schema.names) != sorted(schema.names):
            raise UserError(f"{table.path} has other columns than {tables[0].path}")
    prepared = not columns and schema.names == SCHEMA.names
    chosen = {} if prepared else choose_columns(columns, schema.names, location)
    wanted = schema.names if prepared else sorted(set(chosen.values()))
    unread = tuple(name for name in schema.names if name not in wanted)
    groups = [(file, number) for file, t in enumerate(tables) for number in range(len(t.sizes))]
    ends = np.cumsum([0, *(size for table in tables for size in table.sizes)])
    firsts = np.cumsum([0, *(sum(table.sizes) for table in tables)]).tolist()
    held: dict[int, pa.Table] = {}

    def read(index: int) -> Found:
        group = int(np.searchsorted(ends, index, side="right")) - 1
        file, number = groups[group]
        name = f"{stems[file]}-{index - firsts[file]:07d}"

        def row() -> Found:
            if group not in held:
                held.clear()
                held[group] = tables[file].group(number).select(wanted)
            (cells,) = held[group].slice(index - int(ends[group]), 1).to_pylist()
            if prepared:
                return Found(record_from_row(cells))
            found = record_of_row(cells, chosen, name, images)
            return replace(found, unread=(*unread, *found.unread))

        return guarded(name, row)

    left = [name for name in left_out(location, paths) if name not in WRITTEN_BESIDE]
    return Rows(int(ends[-1]), read, tuple(note_unread(location, left)))


def read_jsonl(path: Path, images: Path | None, columns: dict[str, str]) -> Rows:
    """The records of a file, a line each; see `columns.py` for the keys."""
    lines = JsonLines(path)
    if not len(lines):
        raise UserError(f"{path} is empty; it should hold one JSON object a line")
    known: dict[str, None] = {}
    for count, row in enumerate(lines):
        is_enough = set(columns.values()) <= known.keys() and usual_columns({}, known)
        if count >= LOOKED_AT and is_enough:
            break
        known |= dict.fromkeys(row) if isinstance(row, dict) else {}
    choose_columns(columns, list(known), str(path))

    def read(index: int) -> Found:
        row = lines[index]
        if isinstance(row, Reject):
            return Found(None, [row])
        row = {  # what holds nothing does not hide another column of its kind
            key: value
            for key, value in row.items()
            if not (is_absent(value) or value == [] or (key in USUAL["image"] and value == ""))
        }
        name = f"{path.stem}-{lines.number(index):07d}"
        return record_of_row(row, usual_columns(columns, row), name, images)

    return Rows(len(lines), lambda index: guarded(lines.name(index), read, index))
