import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from data_pipelines.records import Question
from mllm.data.settings import MixtureSettings, TaskProportions
from mllm.training.samples import undisturbed
from mllm.training.train import train_mllm
from runtime.bad_steps import IdleSteps
from runtime.errors import UserError
from runtime.metrics_log import read_metrics
from tests.codes import extract
from tests.mllm.tiny import World, make_model, make_records, steady_metrics
from tests.mllm.training.test_train import interrupt, same, weights
from tests.prepared import prepare_records


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


def test_samples_are_of_records_that_fit_the_context(tmp_path, tmp_path_factory):
    root = tmp_path_factory.mktemp("long")
    long, second = "long " * 150, "a second one"
    records = make_records()
    records[0] = replace(
        records[0],
        captions=[long],
        questions=[Question(long, ["yes"], "a"), Question("what shape is it?", ["bar"], "b")],
    )
    records[1] = replace(records[1], captions=[long, second])
    world = World(root)
    data = prepare_records(records, root / "more")
    codes = extract(world.tokenizer, data, root / "more-codes")
    settings = {"num_steps": 1, "samples_every": 1, "data": data, "codes": codes}
    mixture = MixtureSettings(proportions=TaskProportions(drawing=0))
    train_mllm(world.phase(tmp_path, mixture=mixture, **settings))
    told = json.loads((tmp_path / "samples" / "000001.json").read_text())
    assert len(told["captions"]) == 4 and told["captions"][0] == second
    assert told["answers"][0]["question"] == "what shape is it?"


@pytest.mark.parametrize("option", ["samples", "tensorboard"])
def test_a_place_in_the_way_is_one_sentence(world, tmp_path, option):
    (tmp_path / option).write_text("a file")
    with pytest.raises(UserError, match=option):
        train_mllm(world.phase(tmp_path, num_steps=1, samples_every=1, tensorboard=True))


def test_a_full_disk_is_one_sentence_for_samples_too(world, tmp_path):
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "000001.png").mkdir()  # cannot be replaced
    with pytest.raises(UserError, match=r"cannot write .*000001\.png"):
        train_mllm(world.phase(tmp_path, num_steps=1, samples_every=1))


def test_steps_without_a_gradient_save_nothing(world, tmp_path, monkeypatch):
    monkeypatch.setattr("mllm.training.trainer.IdleSteps", lambda _: IdleSteps(2))
    phase = world.phase(tmp_path, num_steps=3)
    weightless = {name: 0.0 for name in ("answer_weight", "drawing_weight")}
    mixture = phase.mixture.model_copy(update=weightless)  # as of data without any label
    with pytest.raises(UserError, match="2 steps in a row is 0 everywhere, so nothing is learned"):
        train_mllm(phase.model_copy(update={"mixture": mixture}))
    assert not (tmp_path / "model").exists()
