"""Rows of prepared shards by index, out of uncompressed Arrow copies that are memory-mapped.

The copy of a shard is made when one of its rows is first asked for, so opening costs nothing,
however large the data are; the processes of a node share its pages. Pyarrow alone: importing
`datasets` takes longer than opening a million records may.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from runtime.errors import UserError
from runtime.files import delete_temporaries, whole_file
from runtime.run_folder import make_folder

BATCH_ROWS = 100
"""Rows of a record batch: what is held at once while a copy is made."""


class ArrowShards:
    """The rows of parquet files, one after another.

    Args:
        folder: of the parquet files.
        names: of the files, in order.
        num_rows: of each.
        cache: folder for the Arrow copies; named by the content, so that data prepared anew never
            meet an old copy.
    """

    def __init__(self, folder: Path, names: list[str], num_rows: list[int], cache: Path) -> None:
        self.folder = folder
        self.names = names
        self.cache = cache
        self._ends = np.cumsum([0, *num_rows])
        self._opened: dict[int, tuple[list[pa.RecordBatch], np.ndarray]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Without the maps, which every process opens for itself."""
        return {**self.__dict__, "_opened": {}}

    def row(self, index: int, columns: list[str] | None = None) -> dict[str, Any]:
        """One row, of any shard; all of its columns or those that are named.

        Raises:
            UserError: if there is no room for the copy of its shard.
        """
        shard = int(np.searchsorted(self._ends, index, side="right")) - 1
        if shard not in self._opened:
            self._opened[shard] = self._open(shard)
        batches, ends = self._opened[shard]
        within = index - int(self._ends[shard])
        batch = int(np.searchsorted(ends, within, side="right")) - 1
        found = batches[batch].slice(within - int(ends[batch]), 1)
        (row,) = (found if columns is None else found.select(columns)).to_pylist()
        return row

    def path(self, shard: int) -> Path:
        """Where the copy of a shard is, or will be."""
        return self.cache / Path(self.names[shard]).with_suffix(".arrow").name

    def _open(self, shard: int) -> tuple[list[pa.RecordBatch], np.ndarray]:
        """The mapped batches of a shard, and the row that each begins at."""
        path = self.path(shard)
        if not path.is_file():
            self._copy(shard, path)
        with pa.memory_map(str(path)) as source:
            reader = pa.ipc.open_file(source)
            batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        return batches, np.cumsum([0, *(batch.num_rows for batch in batches)])

    def _copy(self, shard: int, path: Path) -> None:
        """Write the copy of a shard, whole or not at all; two processes at once do no harm.

        The first to be done deletes what the others have, or what a killed one has left.
        """
        make_folder(self.cache)
        try:
            with (
                whole_file(path) as temporary,
                pq.ParquetFile(self.folder / self.names[shard]) as file,
                pa.ipc.new_file(str(temporary), file.schema_arrow) as writer,
            ):
                for batch in file.iter_batches(BATCH_ROWS):
                    writer.write_batch(batch)
        except UserError as error:
            if path.is_file():  # another process was done before
                return
            raise UserError(
                f"no Arrow copy of {self.folder / self.names[shard]} can be written to "
                f"{self.cache} ({error}): make room there"
            ) from error
        delete_temporaries(path)
