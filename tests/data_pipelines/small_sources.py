"""Small pictures and archives to make sources of, and the reading of one."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from data_pipelines.records import Record, Reject
from data_pipelines.sources.rows import Found
from data_pipelines.sources.source import open_source
from data_pipelines.validate import Checked, check_record


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    """The file of a picture."""
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def picture(number: int, size: int = 8) -> bytes:
    """A PNG of its own colour."""
    return encoded(Image.new("RGB", (size, size), (number % 256, number // 256, 90)))


def read(source: str) -> list[Record | Reject]:
    """The records of a source, each before what of it could not be read."""
    found = list(open_source(source).records)
    return [item for each in found for item in (each.record, *each.rejects) if item is not None]


def accepted(rows: Iterable[Found]) -> list[Record | Reject]:
    """What `prepare` makes of the entries of a source: records, and what of them is rejected."""
    items: list[Record | Reject] = []
    for found in rows:
        checked = Checked(None, None, found.rejects, [])
        if found.record is not None:
            checked = check_record(found.record, found.rejects)
        items += [] if checked.record is None else [checked.record]
        items += checked.rejects + checked.parts
    return items


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def tar(path: Path, *members: tuple[str, bytes]) -> str:
    """A source of one tar."""
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            add(archive, name, data)
    return f"webdataset:{path}"
