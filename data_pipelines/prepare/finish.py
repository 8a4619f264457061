"""The end of `prepare`: what only all parts together tell, and the folder as it will be read.

Ids that come twice, images that come twice, conversations that name images which are not there,
and which side of a held-out split a record falls on. It reads accounts, not images, and may be
broken off and done again at any moment.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

import pyarrow.parquet as pq

from data_pipelines.prepare.part import Account, Part, refusal
from data_pipelines.records import SCHEMA
from runtime.errors import UserError
from runtime.files import file_sha256
from runtime.storage import Storage

COUNTED = ("records", "images", "captions", "questions", "conversations", "texts", "rejects")
"""Keys of the manifest's counts."""


@dataclass
class Outcome:
    """What becomes of every record."""

    sides: list[list[str | None]]
    """Of each part, of each record: "train", "test", or None for a reject."""
    rejects: list[dict[str, str]]
    """All rejects, part by part."""
    duplicates: list[dict[str, str]] = field(default_factory=list)
    """`id` and the id it is the same image `of`, for each record whose image came before."""


def decide(
    parts: list[Part],
    accounts: list[Account],
    sources: list[str],
    drop_duplicates: bool,
    test_share: float,
) -> Outcome:
    """Settle what becomes of every record.

    Args:
        parts, accounts: in order.
        sources: their names.
        drop_duplicates: reject a record whose image came before, with its text.
        test_share: share of the images that goes to the test side, by their pixels, so that
            equal images are on one side; a record without an image goes by what its
            conversations show, else by its id.

    Raises:
        UserError: if records of two sources share an id.
    """
    outcome = Outcome([], [])
    seen: dict[str, tuple[int, str]] = {}  # id -> its source, its side
    first: dict[str, str] = {}  # pixels -> id
    late: list[list[dict[str, str]]] = []
    for part, account in zip(parts, accounts, strict=True):
        sides: list[str | None] = []
        refused: list[dict[str, str]] = []
        for record_id, pixels, shown in zip(
            account.ids, account.pixels, account.shown, strict=True
        ):
            reason = ""
            if record_id in seen:
                if seen[record_id][0] != part.source:
                    raise UserError(
                        f"two records are called {record_id}, one of {sources[seen[record_id][0]]} "
                        f"and one of {sources[part.source]}; rename one, or prepare the sources "
                        "into separate folders, which training mixes"
                    )
                reason = "another record of this id came before"
            elif pixels is not None and pixels in first:
                outcome.duplicates.append({"id": record_id, "of": first[pixels]})
                if drop_duplicates:
                    reason = f"its image is the same as that of {first[pixels]}"
            if reason:
                refused.append(refusal(record_id, sources[part.source], reason))
                sides.append(None)
                continue
            if pixels is not None:
                first.setdefault(pixels, record_id)
            by = pixels or (f"image of {shown[0]}" if shown else record_id)
            side = _side(by, test_share)
            seen[record_id] = (part.source, side)
            sides.append(side)
        outcome.sides.append(sides)
        late.append(refused)
    _follow_references(parts, accounts, sources, outcome, seen, late)
    for account, refused in zip(accounts, late, strict=True):
        outcome.rejects += account.rejects + refused
    return outcome


def _follow_references(
    parts: list[Part],
    accounts: list[Account],
    sources: list[str],
    outcome: Outcome,
    seen: dict[str, tuple[int, str]],
    late: list[list[dict[str, str]]],
) -> None:
    """Put conversations on the side of the images they show, and refuse those that lack one."""
    has_image = {
        record_id
        for account, sides in zip(accounts, outcome.sides, strict=True)
        for record_id, pixels, side in zip(account.ids, account.pixels, sides, strict=True)
        if pixels is not None and side is not None
    }
    waiting = deque(
        (number, row, shown)
        for number, account in enumerate(accounts)
        for row, shown in enumerate(account.shown)
        if shown is not None
    )
    shown_by: dict[str, list[tuple[int, int, list[str]]]] = {}
    for each in waiting:
        for name in set(each[2]):
            shown_by.setdefault(name, []).append(each)
    while waiting:
        number, row, shown = waiting.popleft()
        account, sides = accounts[number], outcome.sides[number]
        if sides[row] is None:
            continue
        missing = [name for name in shown if name not in has_image]
        if missing:
            reason = f"a conversation shows the image of {missing[0]}, which is not there"
        else:
            theirs = {seen[name][1] for name in shown}
            if account.pixels[row] is not None:
                theirs.add(str(sides[row]))
            if len(theirs) == 1:
                sides[row] = theirs.pop()
                continue
            reason = "a conversation shows images of both sides of the split"
        record_id = account.ids[row]
        late[number].append(refusal(record_id, sources[parts[number].source], reason))
        sides[row] = None
        if record_id in has_image:  # its own image is gone too, and who shows it lacks it now
            has_image.remove(record_id)
            waiting.extend(shown_by.get(record_id, []))


def write_side(
    parts: list[Part],
    accounts: list[Account],
    outcome: Outcome,
    side: str,
    staging: Storage,
    out: Storage,
) -> dict[str, Any]:
    """Write the shards of one side.

    Returns:
        What the manifest says of them: counts, image sizes and shards.
    """
    shards: list[dict[str, Any]] = []
    counts: Counter[str] = Counter(dict.fromkeys(COUNTED, 0))
    widths: list[int] = []
    heights: list[int] = []
    for part, account, sides in zip(parts, accounts, outcome.sides, strict=True):
        rows = [row for row, each in enumerate(sides) if each == side]
        if not rows:
            continue
        name = f"data-{len(shards):05d}.parquet"
        if len(rows) == len(sides):
            staging.copy(part.table, out, name)
        else:
            _copy_rows(staging, part.table, rows, out, name)
        with out.reading(name) as path:
            shards.append(
                {
                    "file": name,
                    "rows": len(rows),
                    "bytes": path.stat().st_size,
                    "sha256": file_sha256(path),
                }
            )
        sizes = [size for row in rows if (size := account.sizes[row]) is not None]
        widths = _bounds(widths + [width for width, _ in sizes])
        heights = _bounds(heights + [height for _, height in sizes])
        counts["records"] += len(rows)
        counts["images"] += len(sizes)
        for kind in ("captions", "questions", "conversations", "texts"):
            counts[kind] += sum(getattr(account, kind)[row] for row in rows)
    counts["rejects"] = len(outcome.rejects)
    return {
        "counts": dict(counts),
        "image_width": {"min": widths[0], "max": widths[1]} if widths else None,
        "image_height": {"min": heights[0], "max": heights[1]} if heights else None,
        "duplicate_images": len(outcome.duplicates),
        "rejects_by_reason": count_reasons(outcome.rejects),
        "shards": shards,
    }


def count_reasons(rejects: list[dict[str, str]]) -> dict[str, int]:
    """How many records were rejected for what, the most frequent first; names and numbers left out."""  # noqa: E501
    kinds = Counter(reason_kind(reject["reason"]) for reject in rejects)
    return dict(sorted(kinds.items(), key=lambda entry: (-entry[1], entry[0])))


def lines(entries: list[dict[str, str]]) -> bytes:
    """Entries as JSONL, in ASCII: an id with a lone surrogate must not break the file."""
    return "".join(json.dumps(entry) + "\n" for entry in entries).encode("ascii")


def reason_kind(reason: str) -> str:
    """A reason without what differs from record to record."""
    without = re.sub(r" ?\(.*\)|'[^']*'|\S+\.\w{2,4}\b", "", reason)
    return " ".join(re.sub(r"\d[\d,]*", "N", without).split())


def _side(by: str, test_share: float) -> str:
    """The side that a digest of anything falls on."""
    if not test_share:
        return "train"
    point = int.from_bytes(hashlib.sha256(by.encode("utf-8", "replace")).digest()[:8], "big")
    return "test" if point < test_share * 2**64 else "train"


def _copy_rows(staging: Storage, table: str, rows: list[int], out: Storage, name: str) -> None:
    """Write some rows of a staged table, a row group at a time."""
    with (
        staging.reading(table) as source,
        pq.ParquetFile(source) as file,
        out.writing(name) as target,
        pq.ParquetWriter(target, SCHEMA, compression="zstd") as writer,
    ):
        first = 0
        for number in range(file.num_row_groups):
            group = file.read_row_group(number)
            wanted = [row - first for row in rows if first <= row < first + group.num_rows]
            first += group.num_rows
            if wanted:
                writer.write_table(group.take(wanted).cast(SCHEMA))


def _bounds(values: list[int]) -> list[int]:
    """[smallest, largest], or nothing of nothing."""
    return [min(values), max(values)] if values else []
