import json
import random

import numpy as np
import pytest
import torch
from PIL import Image

from mllm.data.settings import MixtureSettings
from mllm.training.samples import undisturbed
from mllm.training.train import train_mllm
from runtime.errors import UserError
from runtime.metrics_log import read_metrics
from tests.mllm.tiny import make_model, steady_metrics
from tests.mllm.training.test_train import interrupt, same, weights


@pytest.fixture(scope="module")
def runs(world, tmp_path_factory):
    """The same run with and without looks at what the model draws and answers."""
    root = tmp_path_factory.mktemp("samples")
    settings = {"num_steps": 4, "checkpoint_every": 2}
    plain = world.phase(root / "plain", **settings)
    watched = world.phase(
        root / "watched", samples_every=2, tensorboard=True, peak_tflops=0.001, **settings
    )
    train_mllm(plain)
    train_mllm(watched)
    return plain, watched


def test_samples_are_pictures_and_answers(runs):
    folder = runs[1].out / "samples"
    assert {path.name for path in folder.iterdir()} == {
        "000002.png", "000002.json", "000004.png", "000004.json",
    }  # fmt: skip
    assert Image.open(folder / "000004.png").size == (4 * 16, 16)
    told = json.loads((folder / "000004.json").read_text())
    assert len(told["captions"]) == len(told["answers"]) == 4
    assert set(told["answers"][0]) == {"question", "answer", "truth"}


def test_samples_disturb_nothing(runs):
    plain, watched = runs
    assert same(weights(plain.out / "model"), weights(watched.out / "model"))
    lines = [{k: v for k, v in line.items() if k != "mfu"} for line in steady_metrics(watched.out)]
    assert lines == steady_metrics(plain.out)


def test_a_killed_run_with_samples_ends_as_an_undisturbed_one(world, runs, tmp_path):
    config = world.phase(
        tmp_path, num_steps=4, checkpoint_every=2, samples_every=1, micro_batch_size=1
    )
    interrupt(config)  # in its third step
    train_mllm(config)
    plain = world.phase(tmp_path / "plain", num_steps=4, micro_batch_size=1)
    train_mllm(plain)
    assert same(weights(tmp_path / "model"), weights(plain.out / "model"))


def test_tensorboard_shows_numbers_pictures_and_answers(runs):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(runs[1].out / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert {"loss", "text_loss", "tokens_per_second", "mfu", "grad_norm"} <= set(tags["scalars"])
    assert tags["images"] == ["drawings"]
    assert "answers/text_summary" in tags["tensors"]


def test_the_log_counts_tokens_and_padding(runs):
    told = json.loads((runs[0].out / "sequences.json").read_text())
    lines = read_metrics(runs[0].out)
    shares = [line["padding_fraction"] for line in lines]
    assert sum(shares) / len(shares) == pytest.approx(told["padding_fraction"])
    assert all(line["tokens_per_second"] > 0 for line in lines)
    assert "mfu" not in lines[0] and read_metrics(runs[1].out)[0]["mfu"] > 0


def test_random_states_and_mode_are_as_before(world):
    model = make_model(world).train()
    states = random.getstate(), torch.random.get_rng_state(), np.random.get_state()[1].tolist()
    with undisturbed(model):
        assert not model.training and not torch.is_grad_enabled()
        random.random(), torch.rand(3), np.random.rand(3)
    assert model.training and torch.is_grad_enabled()
    assert random.getstate() == states[0]
    assert torch.equal(torch.random.get_rng_state(), states[1])
    assert np.random.get_state()[1].tolist() == states[2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attention": "flex"}, "attention flex trains only on a GPU; set attention to sdpa"),
        (
            {
                "attention": "flash",
                "bf16": True,
                "mixture": MixtureSettings(several_questions="turns"),
            },
            "attention flash trains only on a GPU",
        ),
    ],
)
def test_attention_that_cannot_run_here_is_one_sentence(world, tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        train_mllm(world.phase(tmp_path / "run", **settings))
    assert not (tmp_path / "run").exists()
