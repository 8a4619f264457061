"""Webdataset tars: samples of files that share a name up to its first dot, one after another.

    cats/0001.jpg  cats/0001.txt       an image and its caption
    cats/0002.png  cats/0002.json      captions, or whatever `columns.py` knows, as JSON

A column of a mapping is a key of the JSON or the ending of a file (`image=input.png`). A record is
called by its tar's name and its own, `00000/cats/0001`, since many writers number the samples of
each tar anew; `id=` says otherwise.

A tar is read as a stream, from disk or from wherever fsspec reaches, and nothing is ever unpacked.
Links, devices, names that lead out and pickles are refused, each with its sample.
"""

import contextlib
import itertools
import os
import tarfile
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import IO, Any, Self

from data_pipelines.images import MAX_FILE_SIZE
from data_pipelines.records import Reject
from data_pipelines.safe_files import check_name, note_unread, parse_line, short_names
from data_pipelines.sources.columns import answers_of, is_absent, record_of_row, usual_columns
from data_pipelines.sources.rows import Found, Streams, guarded
from runtime.errors import UserError
from runtime.storage import MAC_LEFTOVERS, is_remote, left_out, matching, reading

IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp", "gif", "bmp")
CAPTION_ENDINGS = ("txt", "caption", "text")
PICKLE_ENDINGS = ("pkl", "pickle", "pyd", "pt", "pth", "ckpt", "npy", "npz", "joblib")
"""Formats that run code when they are read, or can hold one that does."""
COMPRESSED = (".gz", ".tgz", ".bz2", ".xz", ".zst")
"""Endings of tars that would first have to be unpacked; images in them get no smaller anyway."""
EXTENDED_HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
"""Members that hold the next one's name and other fields, and are read whole."""
BROKEN = (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError)
"""What a truncated archive, or a header of nonsense, provokes."""
LOOKED_AT = 100
"""Samples whose keys count as the columns."""
MAX_HEADER_SIZE = 1024 * 1024
"""Largest extended header, in bytes."""
MAX_MEMBERS = 64
"""Most files of one sample, so that a tar of a single name fills no memory."""


def read_tars(location: str, columns: dict[str, str]) -> Streams:
    """One stream of records for each tar of a `location` of `matching`; see `columns.py`."""
    location = location if is_remote(location) else os.path.expanduser(location)
    is_packed = "*" not in location and location.lower().endswith(COMPRESSED)
    names = [location] if is_packed else matching(location, ".tar")
    if packed := [name for name in names if name.lower().endswith(COMPRESSED)]:
        raise UserError(
            f"{packed[0]} is compressed: unpack it to a .tar first, which is read as it is"
        )
    if is_remote(names[0]):  # what is wrong with name or access shows before anything is written
        with reading(names[0]):
            pass
    if columns:
        _refuse_unknown(columns, names[0])
    named = zip(names, short_names(names), strict=True)
    notes = tuple(note_unread(location, left_out(location, names)))
    return Streams([partial(_read_tar, name, stem, columns) for name, stem in named], notes)


def _refuse_unknown(columns: dict[str, str], name: str) -> None:
    """Refuse a column that none of the first samples of a tar has."""
    known: dict[str, None] = {}
    with reading(name) as file, contextlib.suppress(*BROKEN):
        for sample in itertools.islice(_samples(file, lambda ending: True), LOOKED_AT):
            known |= dict.fromkeys(sample.parts)
            with contextlib.suppress(ValueError):
                known |= dict.fromkeys(parse_line(sample.parts.get("json", b"")))
    for key, column in columns.items():
        if known and column not in known:
            there = ", ".join(known)
            raise UserError(f"{name} has no column {column!r} for {key}; its columns are: {there}")


def _read_tar(name: str, stem: str, columns: dict[str, str]) -> Iterator[Found]:
    """The samples of one tar; a tar that breaks off ends with a reject.

    A location that fails is a `UserError`: the archive itself may be whole.
    """
    wanted = {*IMAGE_ENDINGS, *CAPTION_ENDINGS, "json", *columns.values()}
    with reading(name) as file:
        try:
            for sample in _samples(file, wanted.__contains__):
                key = sample.key.encode("utf-8", "backslashreplace").decode("utf-8")
                record_id = unicodedata.normalize("NFC", f"{stem}/{key}")
                yield guarded(record_id, _found, record_id, sample, columns)
        except BROKEN as error:  # what came before it stands
            yield Found(None, [Reject(f"{stem}.tar", f"the archive breaks off here ({error})")])


class _Member(tarfile.TarInfo):
    """A header, after which nothing is silently left out or read without a limit."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        """The next one; tarfile itself takes a broken one for the end of the archive."""
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # the mark at the end
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from error

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:  # tarfile's own hook
        if self.type in EXTENDED_HEADERS and self.size > MAX_HEADER_SIZE:
            raise tarfile.ReadError(f"a header of {self.size:,} bytes")
        return super()._proc_member(archive)  # type: ignore[misc]


@dataclass
class _Sample:
    """The files of one name."""

    key: str
    parts: dict[str, bytes] = field(default_factory=dict)
    """The wanted files by their endings."""
    unread: list[str] = field(default_factory=list)
    """Endings of the others."""
    endings: set[str] = field(default_factory=set)
    """Of all of them, also where none is kept."""
    problem: str = ""
    """Why the sample must not be read."""


def _samples(file: IO[bytes], wanted: Callable[[str], bool]) -> Iterator[_Sample]:
    """Group the members of an open tar by name, reading files of the `wanted` endings.

    A second file of one name and ending begins another sample of that name. What macOS leaves
    beside files is passed over.
    """
    sample: _Sample | None = None
    try:
        # "r|": read forwards, never seek back; without a letter after it, never decompress.
        with tarfile.open(fileobj=file, mode="r|", tarinfo=_Member) as archive:
            for member in archive:
                # Else it keeps the header of every file.
                archive.members.clear()  # type: ignore[attr-defined]
                name = member.name.removeprefix("./")
                if member.isdir() or any(p.startswith(MAC_LEFTOVERS) for p in name.split("/")):
                    continue
                key, ending = _split(name)
                if sample is None or key != sample.key or ending in sample.endings:
                    if sample is not None:
                        yield sample
                    sample = _Sample(key)
                sample.problem = sample.problem or _complaint(member, ending, len(sample.endings))
                sample.endings.add(ending)
                if sample.problem:
                    sample.parts = {}
                elif wanted(ending):
                    content = archive.extractfile(member)
                    assert content is not None
                    sample.parts[ending] = content.read()
                else:
                    sample.unread.append(ending)
    except BROKEN:
        if sample is not None:
            sample.problem = sample.problem or "the archive breaks off in this sample"
            yield sample
        raise
    if sample is not None:
        yield sample


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


def _found(record_id: str, sample: _Sample, columns: dict[str, str]) -> Found:
    """Turn a sample into a record."""
    if sample.problem:
        raise ValueError(sample.problem)
    parts = sample.parts
    row: dict[str, Any] = parse_line(parts["json"]) if "json" in parts else {}
    endings = [columns.get("image", "")] if columns.get("image") in parts else IMAGE_ENDINGS
    images = [parts[ending] for ending in endings if ending in parts]
    if len(images) > 1:
        raise ValueError(
            f"{len(images)} images make up this sample, not one; say which, with image="
        )
    # The image is the tar's; a name in the JSON says where it came from.
    row = {name: value for name, value in row.items() if name != columns.get("image", "image")}
    row |= {ending: parts[ending] for ending in columns.values() if ending in parts}
    captions: list[Any] = [parts[ending] for ending in CAPTION_ENDINGS if ending in parts]
    if captions:  # most writers repeat the text file's in the JSON
        known = answers_of(captions)
        captions += [each for each in answers_of(row.get("caption")) if each not in known]
    row |= {"jpg": images[0]} if images else {}
    row |= {"caption": captions} if captions else {}
    row = {name: value for name, value in row.items() if not is_absent(value)}
    if not row:
        raise ValueError(f"neither an image nor a text makes up this sample{_dot_rule(sample)}")
    given = {name: column for name, column in columns.items() if column in row}
    given |= {"image": "jpg"} if images else {}
    chosen = usual_columns(given, row)
    if "id" not in given:  # one in the JSON is of whatever the data were made from
        chosen.pop("id", None)
    if not {"image", "text", "conversations"} & chosen.keys():
        raise ValueError(
            f"no image, text or conversation is among its files and keys ({', '.join(row)})"
            + _dot_rule(sample)
        )
    found = record_of_row(row, chosen, record_id, None)
    return replace(found, unread=(*found.unread, *sample.unread))


def _dot_rule(sample: _Sample) -> str:
    """A hint where the name of a file was probably cut at the wrong dot."""
    for ending in sample.unread:
        _, dot, last = ending.rpartition(".")
        if dot and last in (*IMAGE_ENDINGS, *CAPTION_ENDINGS, "json"):
            return (
                f" (the name of a sample ends at its first dot, so that {sample.key}.{ending} is "
                f"the file {ending!r} of the sample {sample.key!r}: rename it)"
            )
    return ""
