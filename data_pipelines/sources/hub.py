"""Any data set that the `datasets` library loads, with a mapping of its columns.

The library downloads, caches and streams; it runs no code of the data set's.
"""

import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_pipelines.images import MAX_FILE_SIZE
from data_pipelines.safe_files import check_name, is_inside, read_inside
from data_pipelines.sources.columns import choose_columns, record_of_row
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
        columns, images: see `columns.py`; the folder is for columns that hold files' names.
        config: one of the data set's, where it has several.
        streaming: read without downloading first, one stream for each of its files.
    """
    import datasets

    what, cache = f"the data set {name} (split {split})", _cache_of_folder(name)
    options: dict[str, Any] = {"split": split, "streaming": streaming, "cache_dir": cache}
    try:
        loaded: Any = datasets.load_dataset(name, config, **options)
    except Exception as error:  # the hub, the network and a dozen readers, each with its own kind
        raise UserError(f"{what} cannot be loaded: {says(error)}") from error
    features = loaded.features or {}
    for column, feature in features.items():
        undecoded: Any = datasets.Image(decode=False)  # the bytes as they came; we decode
        if isinstance(getattr(feature, "feature", None), datasets.Image):  # a list of them
            undecoded = type(feature)(undecoded)
        elif not isinstance(feature, datasets.Image):
            continue
        loaded = loaded.cast_column(column, undecoded)
    known = list(features) or list(loaded.column_names or [])
    chosen = choose_columns(columns, known, name)
    used = {column: features.get(column) for column in chosen.values()}
    labels = {name: each for name, each in used.items() if isinstance(each, datasets.ClassLabel)}
    unread = tuple(column for column in known if column not in used)
    loaded = loaded.select_columns(sorted(used))
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
            if isinstance(image, list) and len(image) == 1:
                image = image[0]
            path = image.get("path") if isinstance(image, dict) and not image.get("bytes") else None
            if isinstance(path, str) and files.has(path):
                row[chosen["image"]] = files.read(path)
            parts = record_of_row(row, chosen, record_id, images)
            return replace(parts, unread=(*unread, *parts.unread))

        return guarded(record_id, record)

    if not streaming:
        return Rows(len(loaded), lambda index: found(index, lambda: loaded[index]))
    # Each stream's records are numbered in a range of their own.
    each = 10_000_000

    def stream(number: int) -> Iterator[Found]:
        try:
            for index, row in enumerate(loaded.shard(loaded.num_shards, number)):
                yield found(number * each + index, lambda row=row: row)  # type: ignore[misc]
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"reading the data set {name} broke off ({says(error)}): where the network is at "
                "fault, run the same command again to resume"
            ) from error

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


class HubFiles:
    """Images that a row names, read out of the data set's own files, no others.

    Data sets laid out as folders of images hold paths in place of bytes. `datasets` makes most of
    them, but a table can hold any it likes, such as `/etc/passwd`.
    """

    def __init__(self, name: str) -> None:
        folder = Path(name).expanduser()
        if not folder.is_dir():
            from huggingface_hub.constants import HF_HUB_CACHE
            from huggingface_hub.file_download import repo_folder_name

            # Names in `snapshots/REVISION` below it are links to `blobs`, also below it.
            folder = Path(HF_HUB_CACHE, repo_folder_name(repo_id=name, repo_type="dataset"))
        self.folder = folder.absolute()
        self.url = f"hf://datasets/{name}@"

    def has(self, path: str) -> bool:
        """Whether it is a path as `datasets` makes them, and no name for the user to explain."""
        return "://" in path or os.path.isabs(path)

    def read(self, path: str) -> bytes:
        """Read the file of a path.

        It is absolute; where the data set is streamed, `hf://datasets/NAME@REVISION/...`; or
        `zip://MEMBER::PATH` with one of these. A `ValueError`, in one clause, if it is not of this
        data set, not there, or too large; a `UserError` if the hub cannot be reached.
        """
        member, *containers = path.split("::")
        target = containers[-1] if containers else member
        if len(containers) > 1 or (containers and not member.startswith("zip://")):
            raise ValueError("its image lies in an archive of an unknown kind")
        if target.startswith(self.url) and ".." not in target.split("/"):
            return self._open(path)
        if "://" in target or not is_inside(self.folder, target):
            raise ValueError(f"its image is no file of the data set ({target[:100]})")
        if containers:
            check_name(member.removeprefix("zip://"))
            return self._open(path)
        return read_inside(self.folder, Path(target))

    def _open(self, path: str) -> bytes:
        """Read what fsspec reaches, out of an archive or through the network."""
        import fsspec

        try:
            with fsspec.open(path, "rb") as file:
                data = bytes(file.read(MAX_FILE_SIZE + 1))
        except FileNotFoundError:
            name = path.split("::")[0].rsplit("/", 1)[-1]
            raise ValueError(f"{name[:100]} is not there") from None
        except zipfile.BadZipFile as error:
            raise ValueError(f"its archive cannot be read ({error})") from error
        except Exception as error:
            hint = "run the same command again to resume"
            raise UserError(f"{path} cannot be read ({says(error)}): {hint}") from error
        if len(data) > MAX_FILE_SIZE:
            raise ValueError(f"its image has more bytes than the limit of {MAX_FILE_SIZE:,}")
        return data
