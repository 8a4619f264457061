"""The end of `prepare`: the shards as they will be read, the quarantine, and the manifest last.

A shard whose records all stay is given its final name as it is. Only one that loses records, or
gets a text about images of the other side, is written again. All of this may be interrupted and
done again at any moment.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from data_pipelines.manifest import (
    DUPLICATES_NAME,
    MANIFEST_NAME,
    QUARANTINE_NAME,
    count_reasons,
)
from data_pipelines.prepare.decide import Decision
from data_pipelines.prepare.part import SIDES, Account
from data_pipelines.shards import map_batches, writing_shard
from data_pipelines.sources.source import Source
from data_pipelines.sources.spec import similar_key
from runtime.errors import UserError
from runtime.files import TEMPORARY
from runtime.storage import Storage

COUNTED = ("captions", "questions", "conversations", "texts")
"""Keys of the manifest for the counts of an entry."""


def check_rejects(rejects: list[dict[str, str]], limit: int | None, storage: Storage) -> None:
    """Stop a run with too many rejects, and leave them to be looked at."""
    if limit is None or len(rejects) <= limit:
        return
    storage.write(QUARANTINE_NAME, _lines(rejects))
    last = rejects[-1]
    raise UserError(
        f"more than {limit} records were rejected (see {storage.location}/{QUARANTINE_NAME}), "
        f"the last one {last['id']!r}: {last['reason']}"
    )


def split_folders(storage: Storage, test_fraction: float) -> list[tuple[Storage, str]]:
    """The folders of manifests, and the side that each holds."""
    if not test_fraction:
        return [(storage, SIDES[0])]
    return [(storage / side, side) for side in SIDES]


def write_prepared(
    storage: Storage,
    staging: Storage,
    request: dict[str, Any],
    sources: list[Source],
    accounts: list[Account],
    decision: Decision,
) -> None:
    """Write everything but the parts, and say what was rejected.

    Args:
        storage: the folder to write.
        staging: where the parts are.
        request: what was asked for, which the manifest repeats.
        sources: that were read.
        accounts: of all parts, in order.
        decision: what becomes of every record.

    Raises:
        UserError: if no record passed, or none fell on one side.
    """
    storage.write(QUARANTINE_NAME, _lines(decision.rejects))
    storage.delete(DUPLICATES_NAME)
    if decision.duplicates:
        storage.write(DUPLICATES_NAME, _lines(decision.duplicates))
    licences = [
        {"source": source.name, "licence": source.licence, "origin": source.origin}
        for source in sources
    ]
    not_read: list[Counter[str]] = [Counter() for _ in sources]
    for account in accounts:
        not_read[account.part.source].update(account.unread)
    folders = split_folders(storage, request["test_fraction"])
    manifests = []
    for folder, side in folders:
        folder.make()
        shards = _write_shards(
            staging, accounts, decision.sides, side, request["test_fraction"], folder
        )
        if not shards:
            _refuse_nothing(decision, side)
        facts = _facts(accounts, decision, side)
        manifests.append({**request, "licences": licences, **facts, "shards": shards})
        for name in set(folder.names()) - {shard["file"] for shard in shards}:
            if name.startswith("data-"):
                folder.delete(name)
    # What killed runs were writing; beside two sides, the folder itself holds the quarantine.
    for folder in (storage, *(folder for folder, _ in folders)):
        for name in folder.names():
            if name.endswith(TEMPORARY):
                folder.delete(name)
    for (folder, _), manifest in zip(folders, manifests, strict=True):
        text = json.dumps(manifest, indent=2, ensure_ascii=False)
        folder.write(MANIFEST_NAME, f"{text}\n".encode())
    _report(decision, storage)
    for source, unread in zip(sources, not_read, strict=True):
        _report_unread(source.name, unread)


def _write_shards(
    staging: Storage,
    accounts: list[Account],
    sides: list[list[str | None]],
    side: str,
    test_fraction: float,
    folder: Storage,
) -> list[dict[str, Any]]:
    """Write the shards of one side; return what the manifest says of them."""
    shards: list[dict[str, Any]] = []
    for account, final in zip(accounts, sides, strict=True):
        if side not in final:
            continue
        name = f"data-{len(shards):05d}.arrow"
        first = [entry.first_side(test_fraction) for entry in account.entries]
        if all((a == side) == (b == side) for a, b in zip(first, final, strict=True)):
            staging.copy(account.part.shard(side), folder, name)
            shards.append(account.shards[side] | {"file": name})
            continue
        with ExitStack() as stack:
            rows = {
                each: _rows(stack.enter_context(staging.reading(account.part.shard(each))))
                for each in account.shards
            }
            shard = stack.enter_context(writing_shard(folder, name))
            for a, b in zip(first, final, strict=True):
                row = next(rows[a])
                if b == side:
                    shard.add(row)
        shards.append(shard.entry)
    return shards


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a shard, a record batch in memory at a time."""
    for batch in map_batches(path):
        yield from batch.to_pylist()


def _facts(accounts: list[Account], decision: Decision, side: str) -> dict[str, Any]:
    """What the manifest says of the records of one side."""
    kept = [
        entry
        for account, sides in zip(accounts, decision.sides, strict=True)
        for entry, each in zip(account.entries, sides, strict=True)
        if each == side
    ]
    sizes = [entry.size for entry in kept if entry.size is not None]
    counts = {"records": len(kept), "images": len(sizes)}
    for number, kind in enumerate(COUNTED):
        counts[kind] = sum(entry.counts[number] for entry in kept)
    widths, heights = zip(*sizes, strict=True) if sizes else ((), ())
    return {
        "counts": counts | {"rejects": len(decision.rejects)},
        "image_width": {"min": min(widths), "max": max(widths)} if sizes else None,
        "image_height": {"min": min(heights), "max": max(heights)} if sizes else None,
        "duplicate_images": len(decision.duplicates),
        "rejects_by_reason": count_reasons(reject["reason"] for reject in decision.rejects),
    }


def _refuse_nothing(decision: Decision, side: str) -> None:
    if any(side for sides in decision.sides for side in sides):
        raise UserError(f"no record fell into the {side} split; give another --test-fraction")
    last = decision.rejects[-1] if decision.rejects else {"id": "none", "reason": "no record"}
    raise UserError(f"no record could be used, the last one {last['id']!r}: {last['reason']}")


def _report(decision: Decision, storage: Storage) -> None:
    """Say what did not pass, the most frequent reasons first."""
    if decision.duplicates:
        print(f"{len(decision.duplicates):,} images come more than once", file=sys.stderr)
    if decision.rejects:
        reasons = list(count_reasons(reject["reason"] for reject in decision.rejects).items())
        told = "; ".join(f"{count:,} × {reason}" for reason, count in reasons[:5])
        more = f"; and {len(reasons) - 5} more kinds" if len(reasons) > 5 else ""
        print(
            f"{len(decision.rejects):,} records rejected, "
            f"see {storage.location}/{QUARANTINE_NAME}: {told}{more}",
            file=sys.stderr,
        )


def _report_unread(source: str, unread: Counter[str]) -> None:
    """Name the columns that were not read, with what they might have meant."""
    if not unread:
        return
    told = []
    for column, count in unread.most_common(10):
        key = similar_key(column)
        hint = f"; {key}={column} reads it" if key else ""
        told.append(f"{column} ({count:,} record{'' if count == 1 else 's'}{hint})")
    more = f" and {len(unread) - 10} more" if len(unread) > 10 else ""
    print(f"{source}: these columns were not read: {', '.join(told)}{more}", file=sys.stderr)


def _lines(entries: list[dict[str, str]]) -> bytes:
    """Entries as JSONL, in ASCII: an id with a lone surrogate must not break the file."""
    return "".join(json.dumps(entry) + "\n" for entry in entries).encode("ascii")
