"""Prepared shards as a map-style data set."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.images import ImageError, open_image, resize_and_crop, to_tensor
from data_pipelines.loading.arrow_shards import ArrowShards
from data_pipelines.prepare.run import MANIFEST_NAME
from data_pipelines.records import (
    SCHEMA_VERSION,
    Record,
    RecordText,
    record_from_row,
    text_from_row,
)
from runtime.errors import UserError
from runtime.run_folder import read_json
from runtime.storage import cache_folder, check_listed, is_remote, local_copy

if TYPE_CHECKING:
    from torch import Tensor

CACHE_NAME = ".arrow"
"""Folder below the prepared one for the uncompressed Arrow copy that is memory-mapped."""

TEXT_COLUMNS = ("id", "captions", "questions", "conversations", "text")
"""All but the image."""

TEXTS_AT_ONCE = 1000
"""Rows that `texts` turns into Python objects at a time."""


class PreparedDataset:
    """The records that `semhitok prepare` wrote, by index.

    Rows are read from Arrow copies of the shards, see `arrow_shards.py`: the data set may be larger
    than memory, and the processes of a node share its pages.

    Args:
        path: a folder written by `semhitok prepare`; one in an object store is fetched first.
        images_only: leave out the records that are text alone, as whatever encodes or trains on
            images must; indices, ids and length are then those of the rest.

    Raises:
        UserError: if the folder has no manifest, was written for another schema, or a shard is
            missing or not of its size.
    """

    def __init__(self, path: Path | str, images_only: bool = False) -> None:
        self.path = local_copy(str(path), MANIFEST_NAME) if is_remote(path) else Path(path)
        self.images_only = images_only
        self.manifest = _read_manifest(self.path)
        for shard in self.manifest["shards"]:
            _check_shard(self.path, shard)

    def __len__(self) -> int:
        return int(self.manifest["counts"]["images" if self.images_only else "records"])

    def __getitem__(self, index: int) -> Record:
        return record_from_row(self._arrow.row(self._row(index)))

    def image(self, index: int) -> tuple[str, bytes | None]:
        """A record's id and its encoded image; its texts, which may be many, are not read."""
        row = self._arrow.row(self._row(index), ["id", "image"])
        return row["id"], None if row["image"] is None else row["image"]["bytes"]

    def texts(self) -> Iterator[RecordText]:
        """Everything but the image of every record, in order; no image is read."""
        first = 0
        for batch in self._columns(*TEXT_COLUMNS):
            flags = self._has_image[first : first + batch.num_rows].tolist()
            first += batch.num_rows
            for row, has_image in zip(batch.to_pylist(), flags, strict=True):
                if has_image or not self.images_only:
                    yield text_from_row(row, has_image)

    def image_tensor(self, index: int, size: int) -> Tensor:
        """Return an image, its shorter side scaled and its centre cut to `size` pixels.

        Returns:
            (3, size, size) float32 in [-1, 1].

        Raises:
            ImageError: if the record has no image.
        """
        record_id, encoded = self.image(index)
        if encoded is None:
            raise ImageError(f"the record {record_id} has no image")
        image = open_image(encoded, name=f"the image of {record_id}")
        return to_tensor(resize_and_crop(image, size))

    @cached_property
    def ids(self) -> list[str]:
        """The records' ids, in order."""
        ids = [name for batch in self._columns("id") for name in batch.column(0).to_pylist()]
        return ids if self._rows is None else [ids[row] for row in self._rows]

    @cached_property
    def fingerprint(self) -> str:
        """Names the content: the SHA-256 (hex) over the shards' own, in order."""
        digest = hashlib.sha256()
        for shard in self.manifest["shards"]:
            digest.update(shard["sha256"].encode("ascii"))
        return digest.hexdigest()

    def _row(self, index: int) -> int:
        """Row of an index in the table."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        if self._rows is not None:
            return int(self._rows[index])
        return index + len(self) if index < 0 else index

    @cached_property
    def _has_image(self) -> np.ndarray:
        """(records of the whole folder,) bool."""
        counts = self.manifest["counts"]
        if counts["images"] == counts["records"]:  # spares a walk through a large table
            return np.ones(counts["records"], bool)
        # The unused path alone, whose struct is absent where the image is; no bytes are read.
        batches = self._columns("image.path")
        return np.concatenate([np.asarray(batch.column(0).is_valid()) for batch in batches])

    @cached_property
    def _rows(self) -> np.ndarray | None:
        """Row of each index in the table; None where they are the same."""
        counts = self.manifest["counts"]
        if not self.images_only or counts["images"] == counts["records"]:
            return None
        return np.flatnonzero(self._has_image)

    @cached_property
    def _arrow(self) -> ArrowShards:
        """The rows by index."""
        cache = self.path / CACHE_NAME
        if not os.access(self.path, os.W_OK):  # as shared data may be
            cache = cache_folder()
        shards = self.manifest["shards"]
        return ArrowShards(
            self.path,
            [shard["file"] for shard in shards],
            [shard["rows"] for shard in shards],
            cache / self.fingerprint[:16],
        )

    def _columns(self, *names: str) -> Iterator[pa.RecordBatch]:
        """Some columns of all rows, in order, straight out of the shards."""
        for shard in self.manifest["shards"]:
            with pq.ParquetFile(self.path / shard["file"]) as file:
                yield from file.iter_batches(TEXTS_AT_ONCE, columns=list(names))


def _read_manifest(path: Path) -> dict[str, Any]:
    """Read the manifest and check its version."""
    if not (path / MANIFEST_NAME).is_file():
        raise UserError(
            f"{path} holds no prepared data ({MANIFEST_NAME}); run: semhitok prepare SOURCE "
            f"--out {path}"
        )
    manifest = read_json(path / MANIFEST_NAME)
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{path} was prepared with schema version {version}, this program reads "
            f"{SCHEMA_VERSION}; delete it and run semhitok prepare again"
        )
    if not (
        _has(manifest.get("counts"), "records", "images")
        and isinstance(manifest.get("shards"), list)
        and all(_has(shard, "file", "rows", "bytes", "sha256") for shard in manifest["shards"])
    ):
        raise UserError(
            f"{path / MANIFEST_NAME} is not one of prepared data; name a folder that "
            "semhitok prepare wrote"
        )
    check_listed(path, [shard["file"] for shard in manifest["shards"]])
    return dict(manifest)


def _has(value: Any, *keys: str) -> bool:
    return isinstance(value, dict) and all(key in value for key in keys)


def _check_shard(path: Path, shard: dict[str, Any]) -> None:
    """Refuse a shard that is missing or not of the size in the manifest."""
    shard_path = path / shard["file"]
    if not shard_path.is_file():
        raise UserError(f"the shard {shard_path} is missing; run semhitok prepare again")
    size = shard_path.stat().st_size
    if size != shard["bytes"]:
        raise UserError(
            f"the shard {shard_path} has {size:,} bytes where the manifest says "
            f"{shard['bytes']:,}; run semhitok prepare again"
        )
