"""Shards: Arrow files of records, written once and then read in place.

A shard is an uncompressed Arrow IPC file, since images are compressed already. It is mapped into
memory: the data may be larger than it, and the processes of a node share its pages. Pyarrow alone
does it: importing `datasets` takes longer than opening a million records.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data_pipelines.manifest import AGAIN
from data_pipelines.records import SCHEMA
from runtime.errors import UserError, says
from runtime.files import file_sha256
from runtime.storage import Storage

ROWS_PER_BATCH = 500
"""Most rows of a record batch, which is held in memory while it is written."""
BYTES_PER_BATCH = 64 * 1024 * 1024
"""Bytes of images and texts after which a record batch ends."""


class ShardWriter:
    """Writes rows of `SCHEMA` into one file; use `writing_shard`, which makes it whole or absent.

    `entry` is what the manifest says of the shard, once it is whole.
    """

    def __init__(self, path: Path) -> None:
        self.entry: dict[str, Any] = {}
        self._writer = pa.ipc.new_file(str(path), SCHEMA)
        self._rows: list[dict[str, Any]] = []
        self._num_rows = self._num_bytes = 0

    def add(self, row: dict[str, Any]) -> None:
        """Add one row."""
        self._rows.append(row)
        self._num_rows += 1
        self._num_bytes += _num_bytes(row)
        if len(self._rows) == ROWS_PER_BATCH or self._num_bytes >= BYTES_PER_BATCH:
            self._flush()

    def finish(self, name: str, path: Path) -> None:
        """Write the last rows, close the file and fill `entry`."""
        self._flush()
        self._writer.close()
        size, sha256 = path.stat().st_size, file_sha256(path)
        self.entry = {"file": name, "rows": self._num_rows, "bytes": size, "sha256": sha256}

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=SCHEMA))
        self._rows, self._num_bytes = [], 0


@contextlib.contextmanager
def writing_shard(storage: Storage, name: str) -> Iterator[ShardWriter]:
    """A writer of a shard, which is there when the block ends without an error."""
    with storage.writing(name) as path:
        writer = ShardWriter(path)
        yield writer
        writer.finish(name, path)


def map_batches(path: str | Path) -> list[pa.RecordBatch]:
    """The memory-mapped record batches of an Arrow file or, as `datasets` writes them, stream."""
    with pa.memory_map(str(path)) as source:
        try:
            reader = pa.ipc.open_file(source)
        except pa.ArrowInvalid:
            return list(pa.ipc.open_stream(source))
        return [reader.get_batch(number) for number in range(reader.num_record_batches)]


class ShardRows:
    """The rows of several shards, one after another; `num_rows` of each.

    Each shard is mapped when one of its rows is first asked for, so that opening costs nothing.
    """

    def __init__(self, paths: list[Path], num_rows: list[int]) -> None:
        self.paths = paths
        self._ends = np.cumsum([0, *num_rows])
        self._mapped: dict[int, tuple[list[pa.RecordBatch], np.ndarray]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Without the maps, which every process opens for itself."""
        return {**self.__dict__, "_mapped": {}}

    def row(self, index: int, columns: list[str] | None = None) -> dict[str, Any]:
        """One row; all of its columns or those that are named."""
        shard, within = _find(self._ends, index)
        batches, ends = self._batches(shard)
        batch, within = _find(ends, within)
        found = batches[batch].slice(within, 1)
        (row,) = (found if columns is None else found.select(columns)).to_pylist()
        return row

    def columns(self, *names: str) -> Iterator[pa.RecordBatch]:
        """Some columns of all rows, in order; the others are not read."""
        for shard in range(len(self.paths)):
            for batch in self._batches(shard)[0]:
                yield batch.select(list(names))

    def _batches(self, shard: int) -> tuple[list[pa.RecordBatch], np.ndarray]:
        """The mapped batches of a shard, and the row that each begins at."""
        if shard not in self._mapped:
            try:
                batches = map_batches(self.paths[shard])
            except (pa.ArrowException, OSError) as error:
                path, why = self.paths[shard], says(error)
                raise UserError(f"the shard {path} is damaged ({why}); {AGAIN}") from error
            ends = np.cumsum([0, *(batch.num_rows for batch in batches)])
            self._mapped[shard] = batches, ends
        return self._mapped[shard]


def _find(ends: np.ndarray, index: int) -> tuple[int, int]:
    """The part that an index lies in, and its position there, where parts end at `ends[1:]`."""
    part = int(np.searchsorted(ends, index, side="right")) - 1
    return part, index - int(ends[part])


def _num_bytes(value: Any) -> int:
    """About the size of a cell or a row."""
    if isinstance(value, (dict, list)):
        return sum(map(_num_bytes, value.values() if isinstance(value, dict) else value))
    return len(value) if isinstance(value, (bytes, str)) else 0
