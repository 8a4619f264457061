"""Any data set that the `datasets` library loads, with a mapping of its columns.

The library downloads, caches and streams; it runs no code of the data set's.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_pipelines.sources.columns import choose_columns, record_of_row
from data_pipelines.sources.hub_files import HubFiles
from data_pipelines.sources.rows import Found, Rows, Streams, guarded
from runtime.errors import UserError, says
from runtime.files import fingerprint


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
    """
    import datasets

    try:
        loaded: Any = datasets.load_dataset(
            name, config, split=split, streaming=streaming, cache_dir=_cache_of_folder(name)
        )
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
    unread = tuple(column for column in known if column not in chosen.values())
    loaded = loaded.select_columns(sorted(set(chosen.values())))
    labels = {
        column: feature
        for column in set(chosen.values())
        if isinstance(feature := features.get(column), datasets.ClassLabel)
    }
    stem = name.rstrip("/").rsplit("/", 1)[-1]
    files = HubFiles(name)

    def found(position: int, read: Callable[[], Any]) -> Found:
        record_id = f"{stem}-{split}-{position:07d}"

        def record() -> Found:
            row = read()
            for column, feature in labels.items():  # a class by its name, not by its number
                number = row[column]
                row[column] = None if number is None or number < 0 else feature.int2str(number)
            image = row.get(chosen.get("image"))
            path = image.get("path") if isinstance(image, dict) and not image.get("bytes") else None
            if isinstance(path, str) and files.has(path):
                row[chosen["image"]] = files.read(path)
            return replace(record_of_row(row, chosen, record_id, images), unread=unread)

        return guarded(record_id, record)

    if not streaming:
        return Rows(len(loaded), lambda index: found(index, lambda: loaded[index]))
    # Each stream's records are numbered in a range of their own.
    each = 10_000_000

    def stream(number: int) -> Iterator[Found]:
        rows = enumerate(loaded.shard(loaded.num_shards, number))
        while True:
            try:
                index, row = next(rows)
            except StopIteration:
                return
            except Exception as error:
                raise UserError(
                    f"reading the data set {name} broke off ({says(error)}): where the network "
                    "is at fault, run the same command again to resume"
                ) from error
            yield found(number * each + index, lambda row=row: row)  # type: ignore[misc]

    return Streams([lambda number=i: stream(number) for i in range(loaded.num_shards)])  # type: ignore[misc]


def _cache_of_folder(name: str) -> str | None:
    """Where the library keeps its copy of a local folder; None of a data set of the hub.

    By itself it takes two folders of one name and one README for the same, whatever is in them.
    """
    from datasets import config

    if not os.path.isdir(name):
        return None
    root = os.path.realpath(name)
    files = sorted(path for path in Path(root).rglob("*") if path.is_file())
    facts = [(path, path.stat()) for path in files]
    content = fingerprint([root, *(f"{p} {s.st_size} {s.st_mtime_ns}" for p, s in facts)])
    return os.path.join(config.HF_DATASETS_CACHE, "folders", content)
