"""`semhitok prepare`: raw data -> validated shards, the same bytes every time.

    semhitok prepare easy-vqa-train --out data/train
    semhitok prepare folder:photos llava:chat.json,images=coco --out data/mixed --test-share 0.01

writes into the folder

    data-00000.parquet ...   accepted records of `shard_size` each, columns as in `records.py`
    quarantine.jsonl         rejected records: {"id", "source", "reason"} a line
    duplicates.jsonl         only where images come twice: {"id", "of"} a line
    manifest.json            written last: a folder that has one is complete
    in_progress.json, parts  only while running: what was asked for, and what is done of it

With `--test-share` the shards and manifests stand in `train/` and `test/` inside the folder.

A killed run goes on where it was, and ends with the same bytes; so do several processes, ranks of
`torchrun` and tasks of a SLURM array that share the folder. Rank 0 waits for the others and puts
their parts together. A finished folder is left as it is when the same is asked for again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from data_pipelines.prepare.finish import Outcome, count_reasons, decide, lines, write_side
from data_pipelines.prepare.part import Account, Part, make_parts, read_account, write_part
from data_pipelines.records import SCHEMA_VERSION
from data_pipelines.sources.rows import Rows, Streams
from data_pipelines.sources.source import Source, folder_of, open_source
from runtime.errors import UserError
from runtime.files import TEMPORARY
from runtime.progress import Progress
from runtime.ranks import is_main_rank, rank_and_world
from runtime.run_folder import usable_cpus
from runtime.storage import Storage, is_remote

MANIFEST_NAME = "manifest.json"
QUARANTINE_NAME = "quarantine.jsonl"
DUPLICATES_NAME = "duplicates.jsonl"
IN_PROGRESS_NAME = "in_progress.json"
STAGING_NAME = "parts"
POLL_SECONDS = 0.2
"""How often rank 0 looks whether the other ranks' parts are there."""

Place = TypeVar("Place", Path, str)
"""A folder, or the URL of one."""

_sources: list[Source] = []
"""Opened sources, for the worker processes, which inherit or reopen them."""


def prepare(
    sources: list[str],
    out: Place,
    shard_size: int = 2000,
    max_rejects: int | None = None,
    num_workers: int = 1,
    drop_duplicates: bool = False,
    test_share: float = 0.0,
) -> Place:
    """Validate sources and write them as shards.

    Args:
        sources: as `sources.open_source` takes them; read one after another.
        out: the folder to write, or a URL that fsspec knows; new, empty, or of an earlier run with
            the same arguments.
        shard_size: records read for a shard, which holds those of them that pass.
        max_rejects: stop when more records than this are rejected; None for no limit.
        num_workers: processes.
        drop_duplicates: reject a record whose image came before; else they are only counted.
        test_share: share of the images held out in `out/test`; 0 for none.

    Returns:
        `out`.

    Raises:
        UserError: if a source is unknown or has no usable record, two sources have one name or
            records of one id, too many are rejected, or `out` holds something else or lies inside
            a source.
    """
    _refuse_arguments(sources, shard_size, test_share)
    storage = Storage(out)
    request = {
        "schema_version": SCHEMA_VERSION,
        "sources": sources,
        "shard_size": shard_size,
        "drop_duplicates": drop_duplicates,
        "test_share": test_share,
    }
    if _is_finished(storage, request):
        (storage / STAGING_NAME).delete_all()
        storage.delete(IN_PROGRESS_NAME)
        if is_main_rank():
            print(
                f"{storage.place} is finished already, and left as it is; delete it to read the "
                "sources anew",
                file=sys.stderr,
            )
        return out
    opened = [_opened(name) for name in sources]  # before anything is written
    _refuse_inside(sources, storage)
    parts = make_parts(opened, shard_size)
    rank, world = rank_and_world()
    if not _claim(storage, request | {"num_parts": len(parts)}, rank):
        return out
    staging = storage / STAGING_NAME
    staging.make()
    rejects = _Rejects(storage, max_rejects)
    mine = parts[rank::world]
    accounts: dict[int, Account] = {}
    for part in mine:
        account = read_account(part, staging)
        if account is not None:
            accounts[part.number] = account
            rejects.add(account)
    missing = [part for part in mine if part.number not in accounts]
    done = sum(_size(part) for part in mine if part.number in accounts)
    with Progress(max(1, sum(map(_size, mine))), "prepare", "records", initial=done) as progress:
        try:
            for part, account in _make(opened, missing, staging, num_workers):
                accounts[part.number] = account
                rejects.add(account)
                progress.update(_size(part))
        except (UserError, OSError):
            # Rank 0 has had everything from before, and taken the parts away under our hands.
            if not rank or not _is_finished(storage, request):
                raise
    if rank:
        if _is_finished(storage, request):  # where all parts had been there before
            staging.delete_all()
        return out
    everything = [
        accounts[part.number] if part.number in accounts else _wait_for(part, staging, storage)
        for part in parts
    ]
    outcome = decide(parts, everything, sources, drop_duplicates, test_share)
    _finish(storage, staging, request, opened, parts, everything, outcome, max_rejects)
    return out


def command(args: argparse.Namespace) -> Any:
    """Run `semhitok prepare` on parsed arguments; return the folder it wrote."""
    return prepare(
        sources=args.sources,
        out=args.out,
        shard_size=args.shard_size,
        max_rejects=args.max_rejects,
        num_workers=args.num_workers or usable_cpus() or 1,
        drop_duplicates=args.drop_duplicates,
        test_share=args.test_share,
    )


class _Rejects:
    """Counts the rejects of the parts, and stops where there are too many."""

    def __init__(self, storage: Storage, limit: int | None) -> None:
        self.storage = storage
        self.limit = limit
        self.found: list[dict[str, str]] = []

    def add(self, account: Account) -> None:
        self.found += account.rejects
        check_rejects(self.found, self.limit, self.storage)


def check_rejects(rejects: list[dict[str, str]], limit: int | None, storage: Storage) -> None:
    """Stop a run that is going wrong, and leave its rejects to be looked at."""
    if limit is None or len(rejects) <= limit:
        return
    storage.write(QUARANTINE_NAME, lines(rejects))
    last = rejects[-1]
    raise UserError(
        f"more than {limit} records were rejected (see {storage.place}/{QUARANTINE_NAME}), "
        f"the last one {last['id']!r}: {last['reason']}"
    )


def _refuse_arguments(sources: list[str], shard_size: int, test_share: float) -> None:
    if not sources:
        raise UserError("there is nothing to prepare; name at least one source")
    twice = next((name for name in sources if sources.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"the source {twice} is named twice; name each once")
    if shard_size < 1:
        raise UserError(f"a shard holds at least 1 record, not {shard_size}")
    if not 0 <= test_share < 1:
        raise UserError(f"the share held out for testing lies in [0, 1), not at {test_share}")


def _refuse_inside(sources: list[str], storage: Storage) -> None:
    """Refuse to write into a folder that is read, where a second run would meet the first's files.

    (A source inside the folder to write needs no word: that folder is not empty.)
    """
    if is_remote(storage.place):
        return
    out = os.path.realpath(storage.place)
    for name in sources:
        folder = folder_of(name)
        if folder is not None and Path(out).is_relative_to(os.path.realpath(folder)):
            raise UserError(
                f"{storage.place} lies inside {folder}, which the source {name!r} reads: "
                "choose a folder outside it with --out"
            )


def _opened(name: str) -> Source:
    """A source whose records can be divided."""
    source = open_source(name)
    if isinstance(source.records, (Rows, Streams)):
        return source
    return replace(source, records=list(source.records))


def _size(part: Part) -> int:
    """Records of a part; one for a stream, which only reading tells."""
    return max(1, part.stop - part.start)


def _make(
    sources: list[Source], parts: list[Part], staging: Storage, num_workers: int
) -> Iterator[tuple[Part, Account]]:
    """Make parts in this process, or in several."""
    if num_workers == 1 or len(parts) < 2:
        for part in parts:
            yield part, write_part(sources[part.source], part, staging)
        return
    _sources[:] = sources
    names = [source.name for source in sources]
    pool = ProcessPoolExecutor(
        min(num_workers, len(parts)), initializer=_start_worker, initargs=(names,)
    )
    try:
        with pool:
            futures = [pool.submit(_in_worker, part, staging.place) for part in parts]
            for part, future in zip(parts, futures, strict=True):
                yield part, future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "a process of `prepare` was killed, most likely for want of memory: run the same "
            "command again, which goes on from there, with fewer --num-workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
        _sources.clear()


def _start_worker(names: list[str]) -> None:
    """Open the sources where they were not inherited, and end when the parent does."""
    if [source.name for source in _sources] != names:
        _sources[:] = [_opened(name) for name in names]
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)  # the parent was killed: nobody waits for us any more

    threading.Thread(target=watch, daemon=True).start()


def _in_worker(part: Part, place: str) -> Account:
    return write_part(_sources[part.source], part, Storage(place))


def _wait_for(part: Part, staging: Storage, storage: Storage) -> Account:
    """Another rank's part, when it is there."""
    told = False
    while (account := read_account(part, staging)) is None:
        if not told:
            print(f"waiting for the other ranks' parts in {staging.place}", file=sys.stderr)
            told = True
        time.sleep(POLL_SECONDS)
    return account


def _finish(
    storage: Storage,
    staging: Storage,
    request: dict[str, Any],
    sources: list[Source],
    parts: list[Part],
    accounts: list[Account],
    outcome: Outcome,
    max_rejects: int | None,
) -> None:
    """Write what is left: shards, quarantine, and the manifests last."""
    check_rejects(outcome.rejects, max_rejects, storage)
    storage.write(QUARANTINE_NAME, lines(outcome.rejects))
    if outcome.duplicates:
        storage.write(DUPLICATES_NAME, lines(outcome.duplicates))
    else:
        storage.delete(DUPLICATES_NAME)
    licences = [
        {"source": source.name, "licence": source.licence, "origin": source.origin}
        for source in sources
    ]
    manifests = []
    for folder, side in _folders(storage, request):
        folder.make()
        found = write_side(parts, accounts, outcome, side, staging, folder)
        if not found["shards"]:
            last = outcome.rejects[-1] if outcome.rejects else {"id": "none", "reason": "no record"}
            raise UserError(
                f"no record fell into the {side} split; give another --test-share"
                if any(side for sides in outcome.sides for side in sides)
                else f"no record could be used, the last one {last['id']!r}: {last['reason']}"
            )
        manifests.append((folder, {**request, "licences": licences, **found}))
        shards = {shard["file"] for shard in found["shards"]}
        for name in folder.names():
            if name.startswith("data-") and name not in shards:
                folder.delete(name)
    # What killed runs were writing; the folder itself has quarantine and claim beside its sides.
    for folder in (storage, *(folder for folder, _ in manifests)):
        for name in folder.names():
            if name.endswith(TEMPORARY):
                folder.delete(name)
    for folder, manifest in manifests:
        text = json.dumps(manifest, indent=2, ensure_ascii=False)
        folder.write(MANIFEST_NAME, f"{text}\n".encode())
    storage.delete(IN_PROGRESS_NAME)
    staging.delete_all()
    _report(outcome, storage)


def _report(outcome: Outcome, storage: Storage) -> None:
    """Say what did not pass, the commonest reasons first."""
    if outcome.duplicates:
        print(f"{len(outcome.duplicates):,} images come more than once", file=sys.stderr)
    if outcome.rejects:
        reasons = list(count_reasons(outcome.rejects).items())
        told = "; ".join(f"{count:,} × {reason}" for reason, count in reasons[:5])
        more = f"; and {len(reasons) - 5} more kinds" if len(reasons) > 5 else ""
        print(
            f"{len(outcome.rejects):,} records rejected, see {storage.place}/{QUARANTINE_NAME}: "
            f"{told}{more}",
            file=sys.stderr,
        )


def _folders(storage: Storage, request: dict[str, Any]) -> list[tuple[Storage, str]]:
    """Folders of manifests, and the side that each holds."""
    if not request["test_share"]:
        return [(storage, "train")]
    return [(storage / side, side) for side in ("train", "test")]


def _is_finished(storage: Storage, request: dict[str, Any]) -> bool:
    """Tell whether the folder already holds what is asked for.

    Raises:
        UserError: if it holds something else.
    """
    if os.path.isfile(storage.place):
        raise UserError(f"{storage.place} is a file; give a folder with --out")
    names = [name for name in storage.names() if not name.endswith(TEMPORARY)]
    if IN_PROGRESS_NAME in names:
        _compare(storage, IN_PROGRESS_NAME, request)
    if MANIFEST_NAME in names:
        _compare(storage, MANIFEST_NAME, request)
    elif (
        names
        and IN_PROGRESS_NAME not in names
        and _compare(storage / "train", MANIFEST_NAME, request) is None
    ):
        raise UserError(
            f"{storage.place} is not empty and was not written by prepare; give another --out"
        )
    for folder, _ in _folders(storage, request):
        manifest = _compare(folder, MANIFEST_NAME, request)
        if manifest is None:
            return False
        # A finished shard that was lost or cut is made again.
        if any(folder.size(shard["file"]) != shard["bytes"] for shard in manifest["shards"]):
            return False
    return True


def _compare(storage: Storage, name: str, request: dict[str, Any]) -> dict[str, Any] | None:
    """Read what an earlier run asked for; refuse another. None where there is no such file.

    (Between asking for its size and reading it another rank may have deleted it.)
    """
    try:
        found: dict[str, Any] = json.loads(storage.read(name))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(
            f"{storage.place}/{name} is not valid JSON; delete the folder or give another --out"
        ) from error
    for key, wanted in request.items():
        if found.get(key) != wanted:
            raise UserError(
                f"{storage.place} was prepared with {key} {found.get(key)}, not {wanted}; "
                "give another folder with --out, or delete it"
            )
    return found


def _claim(storage: Storage, request: dict[str, Any], rank: int) -> bool:
    """Mark the folder as being written; refuse to go on where the data have changed since.

    Returns:
        Whether there is something to do; False where another rank has finished it all meanwhile.
    """
    storage.make()
    if not rank and storage.size(IN_PROGRESS_NAME) is None:
        storage.write(IN_PROGRESS_NAME, f"{json.dumps(request, indent=2)}\n".encode())
    while (found := _compare(storage, IN_PROGRESS_NAME, {})) is None:
        if _is_finished(storage, {key: request[key] for key in request if key != "num_parts"}):
            return False
        time.sleep(POLL_SECONDS)  # until rank 0 has begun
    if found.get("num_parts") != request["num_parts"]:
        raise UserError(
            f"the sources have changed since {storage.place} was begun; delete it and start anew"
        )
    if not rank:
        for folder, _ in _folders(storage, request):
            folder.delete(MANIFEST_NAME)
    return True
