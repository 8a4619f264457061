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
    PARTS_NAME,
    QUARANTINE_NAME,
    count_reasons,
)
from data_pipelines.prepare.decide import Decision
from data_pipelines.prepare.job import Job
from data_pipelines.prepare.part import Account
from data_pipelines.shards import map_batches, writing_shard
from data_pipelines.sources.source import Source
from data_pipelines.sources.spec import KINDS, parse_source, similar_key
from runtime.errors import UserError
from runtime.files import TEMPORARY
from runtime.storage import Storage

COUNTED = ("captions", "questions", "conversations", "texts")
"""Keys of the manifest for the counts of an entry."""
NUM_TOLD = 5
"""Most kinds of rejects, or columns, that are told of."""


def check_rejects(rejects: list[dict[str, str]], limit: int | None, storage: Storage) -> None:
    """Stop a run with too many rejects, and leave them to be looked at."""
    if limit is None or len(rejects) <= limit:
        return
    storage.write(QUARANTINE_NAME, _lines(rejects))
    last, location = rejects[-1], storage.location
    raise UserError(
        f"more than {limit} records were rejected (see {location}/{QUARANTINE_NAME}), the last one "
        f"{last['id']!r}: {last['reason']}; allow more with --max-rejects, or fix the data and "
        f"delete {location}"
    )


def write_rejects(storage: Storage, decision: Decision) -> None:
    """Write the quarantine; and rejected parts, and images that come twice, where there are any."""
    storage.write(QUARANTINE_NAME, _lines(decision.rejects))
    for name, entries in ((PARTS_NAME, decision.parts), (DUPLICATES_NAME, decision.duplicates)):
        if entries:
            storage.write(name, _lines(entries))
        else:
            storage.delete(name)


def write_prepared(
    job: Job, sources: list[Source], accounts: list[Account], decision: Decision
) -> None:
    """Write shards and manifests, and say what was rejected or not read."""
    licences = [
        {"source": source.name, "licence": source.licence, "origin": source.origin}
        for source in sources
    ]
    manifests = {}
    for side, folder in job.folders.items():
        folder.make()
        shards = _write_shards(job, accounts, decision.sides, side)
        facts = {"licences": licences, **_facts(accounts, decision, side), "shards": shards}
        manifests[side] = job.request | facts
    # What killed runs were writing; beside two sides, the folder itself holds the quarantine.
    for folder in (job.storage, *job.folders.values()):
        listed = {shard["file"] for manifest in manifests.values() for shard in manifest["shards"]}
        for name in folder.names():
            if name.endswith(TEMPORARY) or (name.startswith("data-") and name not in listed):
                folder.delete(name)
    for side, folder in job.folders.items():
        text = json.dumps(manifests[side], indent=2, ensure_ascii=False)
        folder.write(MANIFEST_NAME, f"{text}\n".encode())
    _report(job.storage, sources, accounts, decision)


def _write_shards(
    job: Job, accounts: list[Account], sides: list[list[str | None]], side: str
) -> list[dict[str, Any]]:
    """Write the shards of one side; return what the manifest says of them."""
    shards: list[dict[str, Any]] = []
    for account, final in zip(accounts, sides, strict=True):
        if side not in final:
            continue
        name, folder = f"data-{len(shards):05d}.arrow", job.folders[side]
        first = [entry.first_side(job.settings.test_fraction) for entry in account.entries]
        if all((a == side) == (b == side) for a, b in zip(first, final, strict=True)):
            job.staging.copy(account.part.shard(side), folder, name)
            shards.append(account.shards[side] | {"file": name})
            continue
        with ExitStack() as stack:
            rows = {
                each: _rows(stack.enter_context(job.staging.reading(account.part.shard(each))))
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
    counts |= {"rejects": len(decision.rejects), "rejected_parts": len(decision.parts)}
    widths, heights = zip(*sizes, strict=True) if sizes else ((), ())
    return {
        "counts": counts,
        "image_width": {"min": min(widths), "max": max(widths)} if sizes else None,
        "image_height": {"min": min(heights), "max": max(heights)} if sizes else None,
        "duplicate_images": len(decision.duplicates),
        "rejects_by_reason": count_reasons(reject["reason"] for reject in decision.rejects),
    }


def _report(
    storage: Storage, sources: list[Source], accounts: list[Account], decision: Decision
) -> None:
    """Say what was rejected, the most frequent reasons first, and which columns were not read."""
    if decision.duplicates:
        print(f"{len(decision.duplicates):,} images come more than once", file=sys.stderr)
    for what, name, rejects in (
        ("records rejected", QUARANTINE_NAME, decision.rejects),
        ("parts of other records rejected", PARTS_NAME, decision.parts),
    ):
        if rejects:
            reasons = count_reasons(reject["reason"] for reject in rejects)
            told = _listed([f"{count:,} × {reason}" for reason, count in reasons.items()])
            where = f"{storage.location}/{name}"
            print(f"{len(rejects):,} {what}, see {where}: {told}", file=sys.stderr)
    for number, source in enumerate(sources):
        unread: Counter[str] = Counter()
        for account in accounts:
            unread.update(account.unread if account.part.source == number else {})
        if unread:
            maps_columns = KINDS[parse_source(source.name).kind].maps_columns
            told = _listed([_unread(*each, maps_columns) for each in unread.most_common()])
            print(f"{source.name}: these columns were not read: {told}", file=sys.stderr)


def _unread(column: str, count: int, maps_columns: bool) -> str:
    """A column that was not read, with what it might have meant where a source can say so."""
    key = similar_key(column) if maps_columns and "." not in column else None
    hint = f", perhaps {key}={column}" if key and key != column else ""
    return f"{column} (of {count:,}{hint})"


def _listed(told: list[str]) -> str:
    more = [f"and {len(told) - NUM_TOLD} more"] if len(told) > NUM_TOLD else []
    return "; ".join(told[:NUM_TOLD] + more)


def _lines(entries: list[dict[str, str]]) -> bytes:
    """Entries as JSONL, in ASCII: an id with a lone surrogate must not break the file."""
    return "".join(json.dumps(entry) + "\n" for entry in entries).encode("ascii")
