"""`semhitok prepare`: raw data -> validated shards, the same bytes every time.

    semhitok prepare easy-vqa-train --out data/train
    semhitok prepare folder:photos llava:chat.json,images=coco --out data/mixed --test-fraction 0.01

writes into the folder

    data-00000.arrow ...     accepted records of `shard_size` each, columns as in `records.py`
    quarantine.jsonl         rejected records: {"id", "source", "reason"} a line
    rejected_parts.jsonl     only where records lost bad texts: the same of each
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
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import repeat
from pathlib import Path

from data_pipelines.prepare.decide import UnusableError, decide
from data_pipelines.prepare.finish import check_rejects, write_prepared, write_rejects
from data_pipelines.prepare.job import POLL_SECONDS, Job
from data_pipelines.prepare.part import Account, Part, make_parts, read_account, write_part
from data_pipelines.prepare.settings import PrepareSettings
from data_pipelines.sources.source import Source, open_source
from data_pipelines.sources.spec import folder_of
from runtime.errors import UserError
from runtime.progress import Progress
from runtime.ranks import is_main_rank, rank_and_world
from runtime.run_folder import usable_cpus
from runtime.storage import Storage

WORKERS_PER_CORE = 4
"""Most processes for each core that this one may use."""

_sources: list[Source] = []
"""Opened sources, for the worker processes, which inherit or reopen them."""


def prepare(settings: PrepareSettings) -> str:
    """Validate sources and write them as shards; return the folder, or its URL.

    Raises:
        UserError: if a source is unknown or has no usable record, records of two sources have one
            id, too many are rejected, or `out` holds something else or lies inside a source.
    """
    job = Job(settings)
    if job.is_finished(verify=True):
        job.release()
        _say(f"{settings.out} is finished already, and left as it is; delete it to read again")
        return settings.out
    sources = [open_source(name) for name in settings.sources]  # before anything is written
    _refuse_inside(settings.sources, job.storage)
    for note in (note for source in sources for note in source.records.notes):
        _say(note)
    parts = make_parts(sources, settings.shard_size)
    rank, world = rank_and_world()
    if not job.claim(len(parts), rank):
        return settings.out
    try:
        accounts = _make_parts(job, sources, parts[rank::world])
        if not rank:
            _finish(job, sources, [accounts.get(part) or _wait_for(job, part) for part in parts])
    except (UserError, OSError):
        # Another process has finished everything, and taken the parts away under our hands.
        if not job.is_finished():
            raise
    if rank and job.is_finished():  # where all parts had been there before
        job.staging.delete_all()
    return settings.out


def _say(sentence: str) -> None:
    if is_main_rank():
        print(sentence, file=sys.stderr)


def _finish(job: Job, sources: list[Source], accounts: list[Account]) -> None:
    """Put the folder together out of its parts."""
    try:
        decision = decide(accounts, job.settings)
        check_rejects(decision.rejects, job.settings.max_rejects, job.storage)
        write_rejects(job.storage, decision)
        decision.check(job.settings.test_fraction)
    except UnusableError:
        job.release()  # so that the same command reads the sources again, once they are fixed
        raise
    write_prepared(job, sources, accounts, decision)
    job.release()


def _wait_for(job: Job, part: Part) -> Account:
    """The account of another rank's part, when it is there."""
    if (account := read_account(part, job.staging)) is None:
        _say(f"waiting for the other ranks' parts in {job.staging.location}")
    while account is None:
        time.sleep(POLL_SECONDS)
        account = read_account(part, job.staging)
    return account


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


def _make_parts(job: Job, sources: list[Source], parts: list[Part]) -> dict[Part, Account]:
    """The accounts of parts; those that are not there are made."""
    there = [account for part in parts if (account := read_account(part, job.staging)) is not None]
    accounts = {account.part: account for account in there}
    missing = [part for part in parts if part not in accounts]
    rejects = [reject for account in there for reject in account.rejects]
    check_rejects(rejects, job.settings.max_rejects, job.storage)
    total, left = (sum(part.size for part in each) for each in (parts, missing))
    with Progress(max(1, total), "prepare", "records", initial=total - left) as progress:
        for account in _make(job, sources, missing):
            accounts[account.part] = account
            rejects += account.rejects
            check_rejects(rejects, job.settings.max_rejects, job.storage)
            progress.update(account.part.size)
    return accounts


def _make(job: Job, sources: list[Source], parts: list[Part]) -> Iterator[Account]:
    """Make parts in this process, or in several."""
    cores, fraction = usable_cpus() or 1, job.settings.test_fraction
    # More than a few for each core would only take memory.
    num_workers = min(job.settings.num_workers or cores, len(parts), WORKERS_PER_CORE * cores)
    if num_workers < 2:
        for part in parts:
            yield write_part(sources[part.source], part, job.staging, fraction)
        return
    _sources[:] = sources
    names = [source.name for source in sources]
    try:
        with ProcessPoolExecutor(num_workers, None, _start_worker, (names,)) as pool:
            yield from pool.map(_in_worker, parts, repeat(job.staging.location), repeat(fraction))
    except BrokenProcessPool as error:
        raise UserError(
            "a process of `prepare` was killed, most likely for want of memory: run the same "
            "command again to resume, with fewer --num-workers"
        ) from error
    finally:
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
