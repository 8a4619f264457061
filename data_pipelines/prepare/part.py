"""One part of a source: read, checked, and written as shards with an account of them.

A part is a range of a source's records, or one of its streams. What it becomes depends on nothing
else: any process of any machine may make it, in any order, and one that is there need not be made
again.
"""

import hashlib
import json
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from data_pipelines.records import Record, Reject, record_to_row
from data_pipelines.shards import ShardWriter, writing_shard
from data_pipelines.sources.rows import Found, Streams
from data_pipelines.sources.source import Source
from data_pipelines.validate import Checked, ImageFacts, check_record
from runtime.errors import one_line
from runtime.storage import Storage

SIDES = ("train", "test")
"""Of a split; without one, everything is on the first."""


class Part(NamedTuple):
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
    def size(self) -> int:
        """Records; 1 for a stream, whose length only reading tells."""
        return max(1, self.stop - self.start)

    @property
    def account(self) -> str:
        """Name of its account, which is written last."""
        return f"part-{self.number:06d}.json"

    def shard(self, side: str) -> str:
        """Name of its shard of one side."""
        return f"part-{self.number:06d}-{side}.arrow"


class Entry(NamedTuple):
    """What is noted of an accepted record."""

    record_id: str
    digest: str | None
    """Of the image's pixels; None without an image."""
    size: tuple[int, int] | None
    """Width and height of the image."""
    counts: tuple[int, ...]
    """Captions, questions, conversations and plain texts."""
    shown: list[str] | None
    """Ids of the records whose images its conversations name; None where they name none."""

    def first_side(self, test_fraction: float) -> str:
        """The side that the record is written to.

        An image goes by its pixels, so that equal ones are on one side, and a text by its id. A
        text about other records' images stays in the training set until they are all known.
        """
        by = self.digest or self.record_id
        if not test_fraction or (self.digest is None and self.shown):
            return SIDES[0]
        point = int.from_bytes(hashlib.sha256(by.encode("utf-8", "replace")).digest()[:8], "big")
        return SIDES[point < test_fraction * 2**64]


@dataclass
class Account:
    """What the end of `prepare` must know of a part."""

    part: Part
    entries: list[Entry] = field(default_factory=list)
    """Of each accepted record, in order."""
    rejects: list[dict[str, str]] = field(default_factory=list)
    """`id`, `source` and `reason` of each."""
    parts: list[dict[str, Any]] = field(default_factory=list)
    """The same of bad parts of accepted records, and `entry`, the index of the record."""
    unread: dict[str, int] = field(default_factory=dict)
    """Columns or files of entries that were not read, and of how many."""
    shards: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What the manifest would say of the shard of each side that has one."""


def make_parts(sources: list[Source], shard_size: int) -> list[Part]:
    """Divide sources into parts of `shard_size` records; of streams, one part each."""
    parts: list[Part] = []
    for index, source in enumerate(sources):
        if isinstance(source.records, Streams):
            bounds = [(number, number) for number in range(len(source.records.opened))]
        else:
            count = len(source.records)
            bounds = [(at, min(at + shard_size, count)) for at in range(0, count, shard_size)]
        parts += [Part(len(parts) + i, index, *bound) for i, bound in enumerate(bounds)]
    return parts


def write_part(source: Source, part: Part, staging: Storage, test_fraction: float) -> Account:
    """Read a part's records, check them, and write those that pass.

    The folder `staging` gets its shards, if any record passes, and the account.
    """
    account = Account(part)
    shards: dict[str, ShardWriter] = {}
    with ExitStack() as stack:
        for found in _found(source, part):
            for name in found.unread:
                account.unread[name] = account.unread.get(name, 0) + 1
            checked = Checked(None, None, found.rejects, [])
            if found.record is not None:
                checked = check_record(found.record, found.rejects)
            account.rejects += [_told(each, source) for each in checked.rejects]
            number = len(account.entries)
            account.parts += [{"entry": number} | _told(each, source) for each in checked.parts]
            if checked.record is None:
                continue
            entry = _entry(checked.record, checked.facts)
            account.entries.append(entry)
            side = entry.first_side(test_fraction)
            if side not in shards:
                shards[side] = stack.enter_context(writing_shard(staging, part.shard(side)))
            shards[side].add(record_to_row(checked.record))
    account.shards = {side: shard.entry for side, shard in shards.items()}
    # ASCII: an id with a lone surrogate must not break the file.
    staging.write(part.account, json.dumps(vars(account) | {"part": part}).encode("ascii"))
    return account


def read_account(part: Part, staging: Storage) -> Account | None:
    """The account of a part that is there; None of one still to be made."""
    if staging.size(part.account) is None:
        return None
    account = Account(**json.loads(staging.read(part.account)) | {"part": part})
    if any(staging.size(shard["file"]) != shard["bytes"] for shard in account.shards.values()):
        return None
    account.entries = [Entry(*entry) for entry in account.entries]
    return account


def refusal(record_id: str, source: str, reason: str) -> dict[str, str]:
    """A line of the quarantine."""
    return {"id": record_id, "source": source, "reason": one_line(reason)}


def _told(reject: Reject, source: Source) -> dict[str, str]:
    return refusal(reject.record_id, source.name, reject.reason)


def _found(source: Source, part: Part) -> Iterable[Found]:
    """What the entries of a part give."""
    if isinstance(source.records, Streams):
        return source.records.opened[part.start]()
    return map(source.records.read, range(part.start, part.stop))


def _entry(record: Record, facts: ImageFacts | None) -> Entry:
    named = [name for conversation in record.conversations for name in conversation.images]
    digest, size = (None, None) if facts is None else facts
    counts = [len(record.captions), len(record.questions), len(record.conversations)]
    counts.append(int(record.text is not None))
    return Entry(record.record_id, digest, size, tuple(counts), named or None)
