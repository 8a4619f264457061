"""`prepare` killed at any moment, shared out over nodes, or both, ends with the same bytes."""

import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from tests.kills import num_files, wait_for_files
from tests.prepared import prepare_sources

fork = multiprocessing.get_context("fork")  # no imports to wait for; a real process all the same


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """60 captioned pictures, of which every 20th is cut short and a quarter is seen twice."""
    root = tmp_path_factory.mktemp("images")
    draw = np.random.default_rng(0)
    for number in range(60):
        pixels = draw.integers(0, 256, (24, 24, 3), np.uint8)
        path = root / f"{number:03d}.png"
        Image.fromarray(pixels).save(path)
        path.with_suffix(".txt").write_text(f"picture {number}\n")
        if number % 20 == 6:
            path.write_bytes(path.read_bytes()[:100])
        if number % 4 == 3:
            path.write_bytes((root / f"{number - 1:03d}.png").read_bytes())
    return root


@pytest.fixture
def fast(tmp_path) -> Iterator[Path]:
    """A folder in memory where there is one: waiting for a disk is no moment to be killed at."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


def contents(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()
    }


def assert_same(found: dict[str, bytes], expected: dict[str, bytes], when: str = "") -> None:
    """Equal files; what pytest would show of unequal ones is all their bytes."""
    names = found.keys() | expected.keys()
    assert [name for name in sorted(names) if found.get(name) != expected.get(name)] == [], when


def run(
    folder: Path, out: Path, rank: int = 0, world: int = 1, num_workers: int = 1, size: int = 5
) -> None:
    """What a node does, in a session of its own so that its workers can be killed with it."""
    os.setsid()
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world))
    settings = {"drop_duplicates": True, "test_fraction": 0.3}
    prepare_sources(folder, out, shard_size=size, num_workers=num_workers, **settings)


def start(*arguments) -> multiprocessing.Process:
    process = fork.Process(target=run, args=arguments)
    process.start()
    return process


def kill(process: multiprocessing.Process) -> None:
    # The session is its own once `setsid` has run; before that only the process itself is there.
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()
    process.join()


def finish(process: multiprocessing.Process) -> None:
    process.join(150)
    if process.exitcode is None:
        kill(process)
    assert process.exitcode == 0


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [1, 2])
def test_killed_at_twenty_random_moments_it_ends_with_the_same_bytes(folder, fast, num_workers):
    started, most = time.monotonic(), 0
    process = start(folder, fast / "undisturbed", 0, 1, num_workers)
    while process.is_alive():
        most = max(most, num_files(fast))
        process.join(0.001)
    finish(process)
    seconds = time.monotonic() - started
    expected = contents(fast / "undisturbed")
    assert len(expected) > 10
    draw = random.Random(num_workers)
    killed = unfinished = begun = number = 0
    wanted = 20 if num_workers == 1 else 5
    while killed < wanted or not begun or not unfinished:
        number += 1
        out = fast / f"out-{number}"
        process = start(folder, out, 0, 1, num_workers)
        goal = draw.randrange(max(most, len(expected)))
        wait_for_files(process, out, goal, draw.uniform(0, seconds / 4))
        kill(process)
        if process.exitcode == -signal.SIGKILL:
            killed += 1
            begun += out.is_dir() and bool(list(out.iterdir()))
            unfinished += not (out / "test" / "manifest.json").exists()
        else:  # it was done before, since the machine has become quicker
            assert process.exitcode == 0
            seconds /= 2
        finish(start(folder, out, 0, 1, num_workers))
        assert_same(contents(out), expected, f"killed at moment {number}")


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_at_each_file_that_it_names_it_ends_with_the_same_bytes(folder, fast, moment):
    """Random moments seldom meet the few microseconds between a file and its name."""
    finish(start(folder, fast / "undisturbed", 0, 1, 1, 20))
    expected = contents(fast / "undisturbed")

    def run_until(out: Path, number: int) -> None:
        real, calls = os.replace, count(1)

        def dying(*arguments) -> None:
            last = next(calls) == number
            if not last or moment == "after":
                real(*arguments)
            if last:
                os._exit(9)

        os.replace = dying  # of the forked process alone
        run(folder, out, 0, 1, 1, 20)

    for number in count(1):
        out = fast / f"out-{number}"
        process = fork.Process(target=run_until, args=(out, number))
        process.start()
        process.join(150)
        if process.exitcode == 0:
            break
        assert process.exitcode == 9
        finish(start(folder, out, 0, 1, 1, 20))
        assert_same(contents(out), expected, f"killed {moment} naming file {number}")
    assert number > 12


@pytest.mark.slow
def test_eight_nodes_one_of_them_killed_and_started_again(folder, fast):
    finish(start(folder, fast / "alone"))
    out = fast / "shared"
    nodes = [start(folder, out, rank, 8) for rank in range(8)]
    time.sleep(0.05)
    kill(nodes[3])
    time.sleep(0.5)
    nodes[3] = start(folder, out, 3, 8)
    for node in nodes:
        finish(node)
    assert_same(contents(out), contents(fast / "alone"))


def test_two_ranks_share_the_parts(folder, tmp_path, monkeypatch):
    from data_pipelines.prepare import run as module

    made: list[tuple[str, int]] = []
    real = module.write_part

    def noted(source, part, *others):
        made.append((os.environ["RANK"], part.number))
        return real(source, part, *others)

    monkeypatch.setattr(module, "write_part", noted)
    monkeypatch.setenv("WORLD_SIZE", "2")
    (tmp_path / "out").mkdir()
    monkeypatch.setenv("RANK", "0")
    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr("data_pipelines.prepare.run.time.sleep", Mock(side_effect=InterruptedError))
        prepare_sources(folder, tmp_path / "out", shard_size=20)  # waits for rank 1 now
    monkeypatch.setenv("RANK", "1")
    prepare_sources(folder, tmp_path / "out", shard_size=20)
    assert made == [("0", 0), ("0", 2), ("1", 1)]
    monkeypatch.setenv("RANK", "0")
    prepare_sources(folder, tmp_path / "out", shard_size=20)
    assert len(made) == 3  # all were there
    monkeypatch.setenv("WORLD_SIZE", "1")
    prepare_sources(folder, tmp_path / "alone", shard_size=20)
    assert_same(contents(tmp_path / "out"), contents(tmp_path / "alone"))


def test_several_processes_end_with_the_bytes_of_one(folder, tmp_path):
    one = prepare_sources(folder, tmp_path / "one", shard_size=15)
    two = prepare_sources(folder, tmp_path / "two", shard_size=15, num_workers=2)
    assert_same(contents(one), contents(two))
