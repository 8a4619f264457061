"""`semhitok prepare`: raw data -> validated shards, the same bytes every time.

    semhitok prepare easy-vqa-train --out data/train
    semhitok prepare folder:photos llava:chat.json,images=coco --out data/mixed --test-fraction 0.01

writes into the folder

    data-00000.arrow ...     accepted records of `shard_size` each, columns as in `records.py`
    quarantine.jsonl         rejected records: {"id", "source", "reason"} a line
    duplicates.jsonl         only where images come twice: {"id", "of"} a line
    manifest.json            written last: a folder that has one is complete
    in_progress.json, parts  only while running: what was asked for, and what is done of it

With `--test-fraction` the shards and manifests stand in `train/` and `test/` inside the folder.

A killed run resumes, and ends with the same bytes; so do several processes, ranks of `torchrun` and
tasks of a SLURM array that share the folder. Rank 0 waits for the others and puts their parts
together. A finished folder is left as it is when the same is asked for again.
"""

import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from data_pipelines.prepare.decide import decide
from data_pipelines.prepare.finish import check_rejects, write_prepared
from data_pipelines.prepare.part import Account, Part, make_parts, read_account, write_part
from data_pipelines.prepare.resume import STAGING_NAME, claim, is_finished, release, wait_for
from data_pipelines.prepare.settings import PrepareSettings
from data_pipelines.records import SCHEMA_VERSION
from data_pipelines.sources.source import Source, open_source
from data_pipelines.sources.spec import folder_of
from runtime.errors import UserError
from runtime.progress import Progress
from runtime.ranks import is_main_rank, rank_and_world
from runtime.run_folder import usable_cpus
from runtime.storage import Storage

_sources: list[Source] = []
"""Opened sources, for the worker processes, which inherit or reopen them."""


def prepare(settings: PrepareSettings) -> str:
    """Validate sources and write them as shards.

    Returns:
        The folder, or its URL.

    Raises:
        UserError: if a source is unknown or has no usable record, records of two sources have one
            id, too many are rejected, or `out` holds something else or lies inside a source.
    """
    storage = Storage(settings.out)
    request: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "sources": settings.sources,
        "shard_size": settings.shard_size,
        "drop_duplicates": settings.drop_duplicates,
        "test_fraction": settings.test_fraction,
    }
    if is_finished(storage, request):
        release(storage)
        if is_main_rank():
            print(
                f"{storage.location} is finished already, and left as it is; delete it to read the "
                "sources anew",
                file=sys.stderr,
            )
        return settings.out
    sources = [open_source(name) for name in settings.sources]  # before anything is written
    if is_main_rank():
        for source in sources:
            for note in source.records.notes:
                print(note, file=sys.stderr)
    _refuse_inside(settings.sources, storage)
    parts = make_parts(sources, settings.shard_size)
    rank, world = rank_and_world()
    if not claim(storage, request, len(parts), rank):
        return settings.out
    staging = storage / STAGING_NAME
    staging.make()
    try:
        accounts = _make_parts(sources, parts[rank::world], staging, storage, settings)
    except (UserError, OSError):
        # Rank 0 has had everything from before, and taken the parts away under our hands.
        if not rank or not is_finished(storage, request):
            raise
    if rank:
        if is_finished(storage, request):  # where all parts had been there before
            staging.delete_all()
        return settings.out
    everything = [
        accounts[part.number] if part.number in accounts else wait_for(part, staging)
        for part in parts
    ]
    decision = decide(everything, settings)
    check_rejects(decision.rejects, settings.max_rejects, storage)
    write_prepared(storage, staging, request, sources, everything, decision)
    release(storage)
    return settings.out


def _refuse_inside(sources: list[str], storage: Storage) -> None:
    """Refuse to write into a folder that is read, where a second run would meet the first's files.

    (A source inside the folder to write needs no word: that folder is not empty.)
    """
    if storage.is_remote:
        return
    out = os.path.realpath(storage.location)
    for name in sources:
        folder = folder_of(name)
        if folder is not None and Path(out).is_relative_to(os.path.realpath(folder)):
            raise UserError(
                f"{storage.location} lies inside {folder}, which the source {name!r} reads: "
                "choose a folder outside it with --out"
            )


def _make_parts(
    sources: list[Source],
    parts: list[Part],
    staging: Storage,
    storage: Storage,
    settings: PrepareSettings,
) -> dict[int, Account]:
    """The accounts of parts, by number; those that are not there are made."""
    there = [account for part in parts if (account := read_account(part, staging)) is not None]
    accounts = {account.part.number: account for account in there}
    missing = [part for part in parts if part.number not in accounts]
    rejects = [reject for account in there for reject in account.rejects]
    check_rejects(rejects, settings.max_rejects, storage)
    total, left = (sum(part.size for part in each) for each in (parts, missing))
    with Progress(max(1, total), "prepare", "records", initial=total - left) as progress:
        for account in _make(sources, missing, staging, settings):
            accounts[account.part.number] = account
            rejects += account.rejects
            check_rejects(rejects, settings.max_rejects, storage)
            progress.update(account.part.size)
    return accounts


def _make(
    sources: list[Source],
    parts: list[Part],
    staging: Storage,
    settings: PrepareSettings,
) -> Iterator[Account]:
    """Make parts in this process, or in several."""
    num_workers = settings.num_workers or usable_cpus() or 1
    if num_workers == 1 or len(parts) < 2:
        for part in parts:
            yield write_part(sources[part.source], part, staging, settings.test_fraction)
        return
    _sources[:] = sources
    names = [source.name for source in sources]
    pool = ProcessPoolExecutor(
        min(num_workers, len(parts)), initializer=_start_worker, initargs=(names,)
    )
    try:
        with pool:
            jobs = [(part, staging.location, settings.test_fraction) for part in parts]
            for future in [pool.submit(_in_worker, *job) for job in jobs]:
                yield future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "a process of `prepare` was killed, most likely for want of memory: run the same "
            "command again to resume, with fewer --num-workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
        _sources.clear()


def _start_worker(names: list[str]) -> None:
    """Open the sources where they were not inherited, and end when the parent does."""
    if [source.name for source in _sources] != names:
        _sources[:] = map(open_source, names)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)  # the parent was killed: nobody waits for us any more

    threading.Thread(target=watch, daemon=True).start()


def _in_worker(part: Part, location: str, test_fraction: float) -> Account:
    return write_part(_sources[part.source], part, Storage(location), test_fraction)
