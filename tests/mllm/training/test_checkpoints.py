"""A run goes on from whole checkpoints only, however often and wherever it was killed."""

import json
import shutil

import pytest
import torch

from mllm.saved.load import load_model
from mllm.training.checkpoints import begin, finish, newest
from mllm.training.train import train_mllm
from runtime.errors import UserError
from tests import processes
from tests.mllm.tiny import losses_of, write_phase


@pytest.mark.slow
def test_a_run_killed_ten_times_ends_bit_for_bit_as_an_undisturbed_one(world, tmp_path):
    settings = {"num_steps": 20, "checkpoint_every": 2}
    undisturbed = train_mllm(world.phase(tmp_path / "whole", **settings))
    config = write_phase(tmp_path / "mllm.yaml", world.phase(tmp_path / "killed", **settings))
    finished = processes.run("-m", "tests.mllm.killed_runs", config, 10, 5)
    assert finished.returncode == 0, finished.stderr[-3000:]
    deaths = json.loads(finished.stdout.partition("DEATHS ")[2])
    assert len(deaths) == 10 and len({place for place, _, _ in deaths}) == 4
    assert 0 < deaths[-1][2] < 20  # the last life had steps left to take
    whole = load_model(undisturbed).state_dict()
    killed = load_model(tmp_path / "killed" / "model").state_dict()
    assert whole.keys() == killed.keys()
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    assert losses_of(tmp_path / "killed") == losses_of(tmp_path / "whole")
    assert not (tmp_path / "killed" / "checkpoints").exists()


def write(root, step, whole=True):
    folder = root / f"checkpoint-{step}"
    begin(folder)
    (folder / "weights").write_bytes(b"12345678")
    (folder / "part").mkdir()
    (folder / "part" / "optimizer").write_bytes(b"1234")
    if whole:
        finish(folder, num_ranks=2)
    return folder


def test_every_file_of_a_checkpoint_has_the_mode_of_the_others(tmp_path):
    begin(tmp_path / "checkpoint-3")
    (tmp_path / "checkpoint-3" / "weights").write_bytes(b"1")
    (tmp_path / "checkpoint-3" / "weights").chmod(0o600)
    finish(tmp_path / "checkpoint-3", num_ranks=1)
    assert len({path.stat().st_mode for path in (tmp_path / "checkpoint-3").iterdir()}) == 1


def test_the_newest_whole_checkpoint_is_chosen_and_older_ones_go(tmp_path):
    assert newest(tmp_path / "nowhere") is None
    write(tmp_path, 9)
    write(tmp_path, 10)
    found = newest(tmp_path)
    assert (found.step, found.num_ranks, found.folder.name) == (10, 2, "checkpoint-10")
    assert not (tmp_path / "checkpoint-9").exists()
    write(tmp_path, 11, whole=False)
    assert newest(tmp_path).step == 10
    write(tmp_path, 11)
    assert newest(tmp_path).step == 11


def test_a_run_killed_in_its_first_checkpoint_begins_anew(tmp_path):
    write(tmp_path, 5, whole=False)
    assert newest(tmp_path) is None


def cut(folder):
    (folder / "weights").write_bytes(b"1234")


def zero(folder):
    size = (folder / "weights").stat().st_size
    (folder / "weights").write_bytes(bytes(size))


def lose(folder):
    shutil.rmtree(folder / "part")


def unmark(folder):
    (folder / "whole.json").unlink()


def garble(folder):
    (folder / "whole.json").write_text('{"step": 10')


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (cut, "the checksum of weights differs"),
        (zero, "the checksum of weights differs"),
        (lose, "part/optimizer is missing"),
        (unmark, r"no whole\.json"),
        (garble, r"whole\.json cannot be read"),
    ],
)
def test_a_damaged_checkpoint_is_one_sentence_and_never_chosen(tmp_path, damage, problem):
    damage(write(tmp_path, 10))
    with pytest.raises(UserError, match=rf"holds no whole checkpoint \(checkpoint-10: {problem}\)"):
        newest(tmp_path)
    shutil.copytree(tmp_path / "checkpoint-10", tmp_path / "kept")
    write(tmp_path, 8)  # deletes what is damaged, as any other
    shutil.copytree(tmp_path / "kept", tmp_path / "checkpoint-10")
    assert newest(tmp_path).step == 8


def test_a_copy_under_another_step_is_not_chosen(tmp_path):
    shutil.copytree(write(tmp_path, 5), tmp_path / "checkpoint-10")
    assert newest(tmp_path).step == 5


def test_a_run_does_not_go_on_from_half_a_checkpoint(world, tmp_path):
    run = tmp_path / "run"
    damaged = write(run / "checkpoints", 5)
    (damaged / "weights").unlink()
    with pytest.raises(UserError, match="so the run cannot resume; restore its files"):
        train_mllm(world.phase(run))
    assert damaged.is_dir() and not (run / "config.yaml").exists()
