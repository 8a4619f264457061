"""Webdataset tars: samples of files that share a name up to its first dot, one after another.

    cats/0001.jpg  cats/0001.txt       an image and its caption
    cats/0002.png  cats/0002.json      captions, or whatever `columns.py` knows, as JSON

A tar is read as a stream, from disk or from wherever fsspec reaches, and nothing is ever unpacked.
Links, devices, names that lead out and pickles are refused, each with its sample.
"""

from __future__ import annotations

import glob
import re
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from data_pipelines.columns import choose_columns, record_of_row, text_of
from data_pipelines.images import MAX_FILE_SIZE
from data_pipelines.records import Record, Reject
from data_pipelines.rows import Streams
from data_pipelines.safe_files import check_name, parse_line
from semhitok.errors import UserError
from semhitok.storage import is_remote

IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp", "gif", "bmp")
CAPTION_ENDINGS = ("txt", "caption", "text")
PICKLE_ENDINGS = ("pkl", "pickle", "pyd", "pt", "pth", "ckpt", "npy", "npz", "joblib")
"""Formats that run code when they are read, or can hold one that does."""

MAX_MEMBERS = 64
"""Most files of one sample, so that a tar of a single name fills no memory."""


def read_tars(place: str, columns: dict[str, str]) -> Streams:
    """One stream of records for each tar.

    Args:
        place: a path or URL, with `*` (on disk) or `{0000..0127}` for several.
        columns: which keys of a sample's `.json` are what, see `columns.py`.

    Raises:
        UserError: if there is no such file.
    """
    names = _expand(place)
    return Streams([lambda name=name: _read_tar(name, columns) for name in names])  # type: ignore[misc]


def _expand(place: str) -> list[str]:
    """The tars of a pattern, in order."""
    braces = re.search(r"\{(\d+)\.\.(\d+)\}", place)
    if braces:
        first, last = braces.groups()
        numbers = range(int(first), int(last) + 1)
        names = [place.replace(braces[0], f"{number:0{len(first)}d}") for number in numbers]
    elif is_remote(place):
        return [place]
    elif Path(place).is_dir():
        names = sorted(str(path) for path in Path(place).glob("*.tar"))
    else:
        names = sorted(glob.glob(place)) if "*" in place else [place]
    if not names:
        raise UserError(f"no tar matches {place}")
    missing = [name for name in names if not is_remote(name) and not Path(name).is_file()]
    if missing:
        raise UserError(f"no such file: {missing[0]}")
    return names


def _read_tar(name: str, columns: dict[str, str]) -> Iterator[Record | Reject]:
    """The samples of one tar; a tar that breaks off ends with a reject."""
    import fsspec

    stem = name.rsplit("/", 1)[-1]
    try:
        with fsspec.open(name, "rb") as file:
            yield from _samples(file, columns)
    except (tarfile.TarError, EOFError, OSError, ValueError, OverflowError) as error:
        # A truncated archive, or a header of nonsense: what came before it stands.
        yield Reject(stem, f"the archive breaks off here ({error})")


def _samples(file: IO[bytes], columns: dict[str, str]) -> Iterator[Record | Reject]:
    """Group the members of an open tar by name."""
    key, parts, problem = "", {}, ""  # type: str, dict[str, bytes], str
    # "r|": read forwards, never seek back; without a letter after it, never decompress.
    with tarfile.open(fileobj=file, mode="r|") as archive:
        for member in archive:
            if member.isdir():
                continue
            name, ending = _split(member.name)
            if name != key:
                if key:
                    yield _sample(key, parts, problem, columns)
                key, parts, problem = name, {}, ""
            problem = problem or _complaint(member, ending, len(parts))
            if problem:
                parts = {}
                continue
            if ending in (*IMAGE_ENDINGS, *CAPTION_ENDINGS, "json"):
                content = archive.extractfile(member)
                assert content is not None
                parts[ending] = content.read()
    if key:
        yield _sample(key, parts, problem, columns)


def _split(name: str) -> tuple[str, str]:
    """`cats/0001.seg.png` -> (`cats/0001`, `seg.png`), as webdataset does."""
    folder, slash, base = name.rpartition("/")
    stem, _, ending = base.partition(".")
    return f"{folder}{slash}{stem}", ending.lower()


def _complaint(member: tarfile.TarInfo, ending: str, num_parts: int) -> str:
    """Why a member must not be read; empty where it may."""
    try:
        check_name(member.name)
    except ValueError as error:
        return str(error)
    shown = member.name[:100]
    if not member.isreg() or member.issparse():
        return f"{shown} is a link, a device or sparse, which a tar of samples has no need of"
    if ending.rsplit(".", 1)[-1] in PICKLE_ENDINGS:
        return f"{shown} is a pickle or may hold one, which is never read"
    if member.size > MAX_FILE_SIZE:
        return f"{shown} has {member.size:,} bytes; the limit is {MAX_FILE_SIZE:,}"
    if num_parts >= MAX_MEMBERS:
        return f"more than {MAX_MEMBERS} files make up this sample"
    return ""


def _sample(
    key: str, parts: dict[str, bytes], problem: str, columns: dict[str, str]
) -> Record | Reject:
    """Turn the files of one name into a record."""
    key = key.encode("utf-8", "backslashreplace").decode("utf-8")
    if problem:
        return Reject(key, problem)
    try:
        row: dict[str, Any] = parse_line(parts["json"]) if "json" in parts else {}
        images = [parts[ending] for ending in IMAGE_ENDINGS if ending in parts]
        if len(images) > 1:
            return Reject(key, f"{len(images)} images make up this sample, not one")
        # The image is the tar's; a name in the JSON says where it came from.
        row = {name: value for name, value in row.items() if name != columns.get("image", "image")}
        captions = _captions(parts)
        row |= {"jpg": images[0]} if images else {}
        row |= {"caption": captions} if captions else {}
        if not row:
            return Reject(key, "neither an image nor a text makes up this sample")
        given = {name: column for name, column in columns.items() if column in row}
        chosen = choose_columns({"image": "jpg"} | given if images else given, list(row), key)
        return record_of_row(row, chosen | {"id": "__key__"}, key, None)
    except (UserError, ValueError) as error:  # of one sample's JSON, not of the whole source
        return Reject(key, str(error))


def _captions(parts: dict[str, bytes]) -> list[str]:
    """The texts beside an image, a file each."""
    found: Iterable[bytes] = (parts[ending] for ending in CAPTION_ENDINGS if ending in parts)
    return [text_of(text, "caption") for text in found]
