"""Prepared shards as a map-style data set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data_pipelines.images import ImageError, open_image, resize_and_crop, to_tensor
from data_pipelines.manifest import MANIFEST_NAME, read_manifest
from data_pipelines.records import Record, RecordText, record_from_row, text_from_row
from data_pipelines.shards import ShardRows
from runtime.files import fingerprint
from runtime.storage import is_remote, local_copy

if TYPE_CHECKING:
    from torch import Tensor

TEXT_COLUMNS = ("id", "captions", "questions", "conversations", "text")
"""All but the image."""


class PreparedDataset:
    """The records that `semhitok prepare` wrote, by index.

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
        self.manifest = read_manifest(self.path)
        shards = self.manifest["shards"]
        self._shards = ShardRows(
            [self.path / shard["file"] for shard in shards], [shard["rows"] for shard in shards]
        )

    def __len__(self) -> int:
        return int(self.manifest["counts"]["images" if self.images_only else "records"])

    def __getitem__(self, index: int) -> Record:
        return record_from_row(self._shards.row(self._row(index)))

    def image(self, index: int) -> tuple[str, bytes, str]:
        """A record's id, its encoded image, and its first caption or ""; nothing else is read.

        An `ImageError` if the record has no image.
        """
        row = self._shards.row(self._row(index), ["id", "image", "captions"])
        if row["image"] is None:
            raise ImageError(f"the record {row['id']} has no image")
        return row["id"], row["image"]["bytes"], row["captions"][0] if row["captions"] else ""

    def image_tensor(self, index: int, size: int) -> Tensor:
        """(3, size, size) float32 in [-1, 1], the shorter side scaled and the centre cut."""
        record_id, encoded, _ = self.image(index)
        image = open_image(encoded, name=f"the image of {record_id}")
        return to_tensor(resize_and_crop(image, size))

    def texts(self) -> Iterator[RecordText]:
        """Everything but the image of every record, in order; no image is read."""
        for batch in self._shards.columns(*TEXT_COLUMNS, "image"):
            has_images = np.asarray(batch.column("image").is_valid()).tolist()
            rows = batch.select(list(TEXT_COLUMNS)).to_pylist()
            for row, has_image in zip(rows, has_images, strict=True):
                if has_image or not self.images_only:
                    yield text_from_row(row, has_image)

    @cached_property
    def ids(self) -> list[str]:
        """The records' ids, in order."""
        batches = self._shards.columns("id")
        ids = [name for batch in batches for name in batch.column(0).to_pylist()]
        return ids if self._image_rows is None else [ids[row] for row in self._image_rows]

    @cached_property
    def fingerprint(self) -> str:
        """Names the content: a hash over the shards' own, in order."""
        return fingerprint(shard["sha256"] for shard in self.manifest["shards"])

    def _row(self, index: int) -> int:
        """The row of an index in the shards."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        if self._image_rows is not None:
            return int(self._image_rows[index])
        return index + len(self) if index < 0 else index

    @cached_property
    def _image_rows(self) -> np.ndarray | None:
        """The row of each index in the shards; None where they are the same."""
        counts = self.manifest["counts"]
        if not self.images_only or counts["images"] == counts["records"]:
            return None
        batches = self._shards.columns("image")
        return np.flatnonzero(np.concatenate([batch.column(0).is_valid() for batch in batches]))


def num_of(folders: Iterable[Path | str], kind: str) -> int:
    """How many captions, questions, conversations or texts prepared folders have in all."""
    return sum(PreparedDataset(folder).manifest["counts"][kind] for folder in folders)
