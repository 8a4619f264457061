"""One part of a source: read, checked, and written as one parquet file with an account of it.

A part is a range of a source's records, or one of its streams. What it becomes depends on nothing
else, so parts may be made in any order by any process of any machine, and one that is there need
not be made again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from data_pipelines.images import strips
from data_pipelines.records import SCHEMA, Record, Reject, record_to_row
from data_pipelines.sources.rows import Rows, Streams, guarded
from data_pipelines.sources.source import Source
from data_pipelines.validate import decode_record
from runtime.errors import UserError, one_line
from runtime.storage import Storage

ROWS_AT_ONCE = 500
"""Records in a row group, and held in memory, unless their images are large."""
BYTES_AT_ONCE = 64 * 1024 * 1024
"""Bytes of images after which a row group ends."""


class Seen(NamedTuple):
    """What is noted of an upright picture."""

    digest: str
    """Of its size and pixels."""
    size: tuple[int, int]
    """(width, height)."""


@dataclass(frozen=True)
class Part:
    """Which records of which source."""

    number: int
    """From 0, over all sources."""
    source: int
    """Index of the source."""
    start: int
    """Of rows: the first; of streams: which one."""
    stop: int
    """Of rows: the one after the last; of streams: unused."""

    @property
    def table(self) -> str:
        """Name of its parquet file."""
        return f"part-{self.number:06d}.parquet"

    @property
    def account(self) -> str:
        """Name of its account, which is written last."""
        return f"part-{self.number:06d}.json"


@dataclass
class Account:
    """What the end of `prepare` must know of a part; the lists have an entry a record."""

    ids: list[str] = field(default_factory=list)
    pixels: list[str | None] = field(default_factory=list)
    """Digest of the upright image's size and pixels; None without an image."""
    sizes: list[tuple[int, int] | None] = field(default_factory=list)
    """(width, height)."""
    captions: list[int] = field(default_factory=list)
    questions: list[int] = field(default_factory=list)
    conversations: list[int] = field(default_factory=list)
    texts: list[int] = field(default_factory=list)
    shown: list[list[str] | None] = field(default_factory=list)
    """Ids of the records whose images its conversations show; None where they name none."""
    rejects: list[dict[str, str]] = field(default_factory=list)
    """`id`, `source` and `reason` of each."""


def make_parts(sources: list[Source], shard_size: int) -> list[Part]:
    """Divide sources into parts of `shard_size` records; of streams, one part each."""
    parts: list[Part] = []
    for index, source in enumerate(sources):
        if isinstance(source.records, Streams):
            bounds = [(number, number) for number in range(len(source.records.opened))]
        else:
            assert isinstance(source.records, (Rows, list))
            count = len(source.records)
            bounds = [(at, min(at + shard_size, count)) for at in range(0, count, shard_size)]
        parts += [Part(len(parts) + i, index, *bound) for i, bound in enumerate(bounds)]
    return parts


def write_part(source: Source, part: Part, staging: Storage) -> Account:
    """Read a part's records, check them, and write those that pass.

    Args:
        source: the part's.
        part: which records.
        staging: the folder for the table, if any record passes, and the account.
    """
    account = Account()
    rows: list[dict[str, Any]] = []
    size = 0
    items = _items(source, part)
    with (
        staging.writing(part.table) as path,
        pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer,
    ):
        for item in items:
            checked = _check(item)
            if isinstance(checked, Reject):
                account.rejects.append(refusal(checked.record_id, source.name, checked.reason))
                continue
            record, seen = checked
            _note(account, record, seen)
            rows.append(record_to_row(record))
            size += len(record.image or b"")
            if len(rows) == ROWS_AT_ONCE or size >= BYTES_AT_ONCE:
                writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
                rows, size = [], 0
        if rows:
            writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
    # ASCII: an id with a lone surrogate must not break the file.
    staging.write(part.account, json.dumps(asdict(account)).encode("ascii"))
    return account


def read_account(part: Part, staging: Storage) -> Account | None:
    """The account of a part that is there; None of one still to be made."""
    if staging.size(part.account) is None or staging.size(part.table) is None:
        return None
    try:
        return Account(**json.loads(staging.read(part.account)))
    except TypeError:  # of another version of this program
        return None


def refusal(record_id: str, source: str, reason: str) -> dict[str, str]:
    """A line of the quarantine."""
    return {"id": record_id, "source": source, "reason": one_line(reason)}


def _items(source: Source, part: Part) -> Iterator[Record | Reject]:
    """The records of a part; what goes wrong in reading one is a reject."""
    records = source.records
    if isinstance(records, Streams):
        yield from records.opened[part.start]()
        return
    assert isinstance(records, (Rows, list))
    for index in range(part.start, part.stop):
        yield guarded(source.name, index, lambda index=index: records[index])  # type: ignore[misc]


def _check(item: Record | Reject) -> Reject | tuple[Record, Seen | None]:
    """A record with what is noted of its picture, or why it is not accepted."""
    if isinstance(item, Reject):
        return item
    try:
        image = decode_record(item)
    except (UserError, ValueError) as error:
        return Reject(item.record_id, str(error))
    # The picture stays in here: a large one beside the next would be too much memory.
    return item, None if image is None else Seen(_digest(image), image.size)


def _note(account: Account, record: Record, seen: Seen | None) -> None:
    """Enter one accepted record."""
    account.ids.append(record.record_id)
    account.pixels.append(None if seen is None else seen.digest)
    account.sizes.append(None if seen is None else seen.size)
    account.captions.append(len(record.captions))
    account.questions.append(len(record.questions))
    account.conversations.append(len(record.conversations))
    account.texts.append(int(record.text is not None))
    named = [name for conversation in record.conversations for name in conversation.images]
    account.shown.append(named or None)


def _digest(image: Image.Image) -> str:
    """Names a picture by what is seen: the same pixels in another format have the same digest."""
    digest = hashlib.sha256(f"{image.width} {image.height} ".encode())
    for strip in strips(image):  # the bytes of all at once are two copies
        digest.update(strip.tobytes())
    return digest.hexdigest()[:32]
