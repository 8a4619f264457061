"""Small pictures and archives to make sources of, and the reading of one."""

import io
import tarfile
from pathlib import Path

from PIL import Image

from data_pipelines.records import Record, Reject
from data_pipelines.sources.source import open_source


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    """The file of a picture."""
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def picture(number: int, size: int = 8) -> bytes:
    """A PNG of its own colour."""
    return encoded(Image.new("RGB", (size, size), (number % 256, number // 256, 90)))


def read(source: str) -> list[Record | Reject]:
    return list(open_source(source).records)


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
