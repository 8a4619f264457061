"""`extract-codes` killed at any moment, or shared out over an array of tasks: the same bytes."""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch

from tests.codes import extract
from tests.kills import wait_for_files
from tokenizer.extraction.code_shards import CodeStore
from tokenizer.saved.model_folder import save_tokenizer

fork = multiprocessing.get_context("fork")  # no imports to wait for; a real process all the same


@pytest.fixture(scope="module")
def tokenizer_folder(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(tiny_model(), folder)
    return folder


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


def run(tokenizer: Path, data: Path, out: Path | str, environment: dict[str, str]) -> None:
    torch.set_num_threads(1)  # a fork of a process with threads must not use its pool
    os.environ.update(environment)
    extract(tokenizer, data, out, batch_size=2, shard_size=2)


def start(tokenizer: Path, data: Path, out: Path | str, **environment: str):
    process = fork.Process(target=run, args=(tokenizer, data, out, environment))
    process.start()
    return process


def finish(process) -> None:
    process.join(150)
    if process.exitcode is None:
        process.kill()
    assert process.exitcode == 0


@pytest.mark.slow
def test_killed_at_twenty_random_moments_it_ends_with_the_same_bytes(
    tokenizer_folder, prepared, tmp_path
):
    started = time.monotonic()
    finish(start(tokenizer_folder, prepared, tmp_path / "undisturbed"))
    seconds = time.monotonic() - started
    expected = contents(tmp_path / "undisturbed")
    assert len(expected) == 14  # twelve shards, the claim and the manifest
    draw = random.Random(0)
    left: list[int] = []  # shards of those killed
    number = 0
    while len(left) < 20 or not any(0 < count < 12 for count in left):
        number += 1
        out = tmp_path / f"out-{number}"
        process = start(tokenizer_folder, prepared, out)
        wait_for_files(process, out, draw.randrange(14), draw.uniform(0, seconds / 4))
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            left.append(len(list(out.glob("codes-*.arrow"))) if out.is_dir() else 0)
        else:  # it was done before, since the machine has become quicker
            assert process.exitcode == 0
            seconds /= 2
        finish(start(tokenizer_folder, prepared, out))
        assert contents(out) == expected, f"killed at moment {number}"


@pytest.mark.slow
def test_eight_tasks_of_an_array_one_of_them_killed_and_started_again(
    tokenizer_folder, prepared, tmp_path
):
    finish(start(tokenizer_folder, prepared, tmp_path / "alone"))
    out = tmp_path / "shared"

    def task(number: int):
        return start(
            tokenizer_folder, prepared, out, SLURM_ARRAY_TASK_ID=str(number + 1),
            SLURM_ARRAY_TASK_MIN="1", SLURM_ARRAY_TASK_COUNT="8",
        )  # fmt: skip

    tasks = [task(number) for number in range(8)]
    wait_for_files(tasks[3], out, 2, 0)  # the claim, and what one of them has of its first shard
    tasks[3].kill()
    tasks[3].join()
    tasks[3] = task(3)
    for each in tasks:
        finish(each)
    assert contents(out) == contents(tmp_path / "alone")


def test_an_object_store_takes_codes_and_gives_them_back(
    tokenizer_folder, prepared, tmp_path, monkeypatch
):
    import fsspec

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    url = f"memory://semhitok-{tmp_path.name}/codes"
    assert extract(tokenizer_folder, prepared, url, shard_size=9) == url
    local = extract(tokenizer_folder, prepared, tmp_path / "local", shard_size=9)
    stored, root = fsspec.filesystem("memory"), url.removeprefix("memory:/")
    assert {
        name.rsplit("/", 1)[-1]: stored.cat_file(name) for name in stored.find(root)
    } == contents(local)
    codes, expected = CodeStore(url), CodeStore(local)
    assert codes.manifest == expected.manifest
    assert codes.flat("03.png").tolist() == expected.flat("03.png").tolist()
    # Another machine, with nothing in its cache, goes on from what the store holds.
    stored.rm_file(f"{root}/manifest.json")
    stored.rm_file(f"{root}/codes-00001.arrow")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    extract(tokenizer_folder, prepared, url, shard_size=9)
    assert stored.cat_file(f"{root}/codes-00001.arrow") == contents(local)["codes-00001.arrow"]
    assert stored.cat_file(f"{root}/manifest.json") == contents(local)["manifest.json"]
