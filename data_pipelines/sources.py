"""What `prepare` can read, by name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_pipelines import easy_vqa, image_folder
from data_pipelines.records import Record, Reject
from semhitok.errors import UserError

EASY_VQA_SPLITS = {"easy-vqa-train": "train", "easy-vqa-test": "test"}
"""Source name -> split. There is no name for both: nobody should train on the test images."""

KNOWN_SOURCES = (*EASY_VQA_SPLITS, "or the path of a folder of images")


@dataclass(frozen=True)
class Source:
    """A stream of records and where it comes from."""

    name: str
    """As the user wrote it."""
    licence: str
    """The licence of the data, or a hint that it is the user's to know."""
    origin: str
    """Who made the data and where it is published."""
    num_records: int
    """Records the stream will yield, rejects included; for the progress bar."""
    records: Iterator[Record | Reject]
    """The stream, in an order that depends on the data only."""


def open_source(name: str) -> Source:
    """Find a source by its name or path.

    Raises:
        UserError: if there is no such source, or it is empty or not installed.
    """
    if name in EASY_VQA_SPLITS:
        split = EASY_VQA_SPLITS[name]
        return Source(
            name=name,
            licence=easy_vqa.LICENCE,
            origin=easy_vqa.ORIGIN,
            num_records=easy_vqa.NUM_IMAGES[split],
            records=easy_vqa.read_records(split),
        )
    root = Path(name)
    if root.is_dir():
        return Source(
            name=name,
            licence="unknown; as the folder's owner says",
            origin="a local folder of images",
            num_records=len(image_folder.list_images(root)),
            records=image_folder.read_records(root),
        )
    raise UserError(f"there is no source {name!r}; known are {', '.join(KNOWN_SOURCES)}")
