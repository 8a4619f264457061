"""Any data set that the `datasets` library loads, with a mapping of its columns.

The library downloads, caches and streams; it runs no code of the data set's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_pipelines.records import Record
from data_pipelines.sources.columns import choose_columns, record_of_row
from data_pipelines.sources.hub_files import HubFiles
from data_pipelines.sources.rows import Rows, Streams, guarded
from runtime.errors import UserError, says


def read_hub(
    name: str,
    columns: dict[str, str],
    config: str | None = None,
    split: str = "train",
    streaming: bool = False,
    images: Path | None = None,
) -> Rows | Streams:
    """The rows of a split.

    Args:
        name: of the data set on the hub, or a local folder laid out as one.
        columns: see `columns.py`.
        config: one of the data set's, where it has several.
        split: the part to read.
        streaming: read without downloading first, one stream for each of its files.
        images: the folder of images, where a column holds their names.

    Raises:
        UserError: if it cannot be loaded, or a column is not there.
    """
    import datasets

    try:
        loaded: Any = datasets.load_dataset(name, config, split=split, streaming=streaming)
    except Exception as error:  # the hub, the network and a dozen readers, each with its own kind
        raise UserError(
            f"the data set {name} (split {split}) cannot be loaded: {says(error)}"
        ) from error
    features = loaded.features or {}
    for column, feature in features.items():
        if isinstance(feature, datasets.Image):  # the bytes as they came; we decode
            loaded = loaded.cast_column(column, datasets.Image(decode=False))
    known = list(features) or list(loaded.column_names or [])
    chosen = choose_columns(columns, known, name)
    loaded = loaded.select_columns(sorted(set(chosen.values())))
    labels = {
        column: feature
        for column in set(chosen.values())
        if isinstance(feature := features.get(column), datasets.ClassLabel)
    }
    stem = name.rstrip("/").rsplit("/", 1)[-1]
    files = HubFiles(name)

    def record(row: Any, position: int) -> Record:
        for column, feature in labels.items():  # a class by its name, not by its number
            number = row[column]
            row[column] = None if number is None or number < 0 else feature.int2str(number)
        image = row.get(chosen.get("image"))
        path = image.get("path") if isinstance(image, dict) and image.get("bytes") is None else None
        if isinstance(path, str) and files.has(path):
            row[chosen["image"]] = files.read(path)
        return record_of_row(row, chosen, f"{stem}-{split}-{position:07d}", images)

    if not streaming:
        return Rows(
            len(loaded),
            lambda index: guarded(stem, index, lambda: record(loaded[index], index)),
        )
    # Each stream's records are numbered in a range of their own.
    each = 10_000_000

    def stream(number: int) -> Any:
        rows = enumerate(loaded.shard(loaded.num_shards, number))
        while True:
            try:
                index, row = next(rows)
            except StopIteration:
                return
            except Exception as error:
                raise UserError(
                    f"reading the data set {name} broke off ({says(error)}): where the network "
                    "is at fault, the same command goes on from there"
                ) from error
            position = number * each + index
            yield guarded(stem, position, lambda row=row, position=position: record(row, position))  # type: ignore[misc]

    return Streams([lambda number=i: stream(number) for i in range(loaded.num_shards)])  # type: ignore[misc]
