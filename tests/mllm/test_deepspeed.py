"""Two processes against one; each launch takes about 15 seconds."""

import pytest
import torch

from mllm.load import load_model
from mllm.train import train_mllm
from tests.mllm.tiny import launch, losses_of, write_phase

pytestmark = pytest.mark.slow
NUM_STEPS = 30
# Losses go from 44.5 to 22.9; measured: 1.9e-6 under ZeRO-2 and ZeRO-3, 3.8e-6 under plain data
# parallel, which is the last bit of a float32 of that size.
TOLERANCE = 2e-5


def phase(world, out, **settings):
    return world.phase(out, num_steps=NUM_STEPS, global_batch_size=8, **settings)


@pytest.fixture(scope="module")
def single(world, tmp_path_factory):
    """The run on one process."""
    out = tmp_path_factory.mktemp("single")
    train_mllm(phase(world, out))
    return out


def run_on_two(world, root, *overrides, launcher="torchrun", **settings):
    out = root / "run"
    config = write_phase(root / "mllm.yaml", phase(world, out, **settings))
    finished = launch(2, "train", "mllm", "--config", str(config), *overrides, launcher=launcher)
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert finished.stdout.count(f"wrote {out / 'model'}") == 1
    assert "FutureWarning" not in finished.stderr
    return out


def assert_same_run(run, single):
    losses = losses_of(single)
    assert len(losses) == NUM_STEPS and losses[-1] < 0.6 * losses[0]
    assert losses_of(run) == pytest.approx(losses, abs=TOLERANCE)
    # Loaded, since DeepSpeed writes tied weights twice; a missing weight would be an error.
    first, second = (load_model(folder / "model").state_dict() for folder in (run, single))
    assert first.keys() == second.keys()
    for name in first:
        if name.startswith("image_tokenizer."):
            assert torch.equal(first[name], second[name]), name
        else:
            # AdamW turns the last bit of a near-zero gradient into a step of another size.
            torch.testing.assert_close(first[name], second[name], atol=1e-3, rtol=0, msg=name)


@pytest.mark.parametrize("stage", [2, 3])
def test_zero_on_two_processes_is_the_run_on_one(world, single, tmp_path, stage):
    # mllm/train.py itself asserts that the model it trained was a DeepSpeedEngine.
    run = run_on_two(world, tmp_path, f"deepspeed=configs/deepspeed/zero{stage}.json")
    assert_same_run(run, single)


def test_zero_accumulates_like_one_batch(world, single, tmp_path):
    run = run_on_two(
        world, tmp_path, "deepspeed=configs/deepspeed/zero2.json", "micro_batch_size=2"
    )
    assert_same_run(run, single)


def test_plain_data_parallel_on_two_processes_is_the_run_on_one(world, single, tmp_path):
    assert_same_run(run_on_two(world, tmp_path), single)


@pytest.mark.parametrize("launcher", ["accelerate", "deepspeed"])
def test_the_other_launchers_start_the_same_run(world, single, tmp_path, launcher):
    run = run_on_two(world, tmp_path, "deepspeed=configs/deepspeed/zero2.json", launcher=launcher)
    assert_same_run(run, single)
