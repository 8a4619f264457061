"""Training with everything on: adversary, averages, micro-batches, validation, exact resume."""

import signal

import pytest
import torch

from runtime.errors import UserError
from runtime.metrics_log import read_metrics
from runtime.settings import build_settings, save_settings
from tests import processes
from tests.tokenizer.phases import EVERY_PHASE, FULL, PLAYS, killed, run, weights
from tokenizer.codebooks.training import CodebookTraining
from tokenizer.saved.model_folder import load_tokenizer
from tokenizer.training import batches as training_batches
from tokenizer.training import train
from tokenizer.training.settings import PHASE_SETTINGS


@pytest.mark.parametrize("phase", EVERY_PHASE)
def test_with_everything_on_a_resumed_run_ends_in_the_same_bits(
    settings, phase, tmp_path, monkeypatch
):
    run(phase, settings(phase, tmp_path / "whole"))
    resumed = settings(phase, tmp_path / "resumed")
    killed(monkeypatch, phase, resumed, after_steps=5)
    torch.manual_seed(123)  # a fresh process has another random state
    run(phase, resumed)
    expected, found = (weights(tmp_path / name / "model") for name in ("whole", "resumed"))
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    logs = [read_metrics(tmp_path / name) for name in ("whole", "resumed")]
    assert logs[0] == logs[1]
    if phase in PLAYS:
        assert "discriminator_loss" in logs[0][-1]
        assert "discriminator_loss" not in logs[0][0]  # it starts at the second step
        assert logs[0][-1]["lecam_loss"] > 0


# The process kills itself, which is what the system's SIGKILL is: no handler and no clean-up runs.
KILLED_AFTER_A_STEP = """
import os, signal, sys
from runtime.settings import load_settings
from tokenizer.training import train
from tokenizer.training.settings import PHASE_SETTINGS
real = train.TrainStep.__call__
def call(self, step, batch):
    values = real(self, step, batch)
    if step == 3: os.kill(os.getpid(), signal.SIGKILL)
    return values
train.TrainStep.__call__ = call
train.train_phase(load_settings(PHASE_SETTINGS[sys.argv[1]], sys.argv[2]))
"""
KILLED_AMID_A_CHECKPOINT = """
import os, signal, sys, torch
from runtime.settings import load_settings
from tokenizer.training import train
from tokenizer.training.settings import PHASE_SETTINGS
real = torch.save
def save(state, file):
    real(state, file)
    if state["step"] == 4:
        os.truncate(file.fileno(), 1000)
        os.kill(os.getpid(), signal.SIGKILL)
torch.save = save
train.train_phase(load_settings(PHASE_SETTINGS[sys.argv[1]], sys.argv[2]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("phase", "script", "checkpoint_every"),
    [(phase, KILLED_AFTER_A_STEP, 3) for phase in EVERY_PHASE]  # 3 + 3 steps
    + [("joint", KILLED_AMID_A_CHECKPOINT, 2)],
    ids=[*EVERY_PHASE, "joint, amid a checkpoint"],
)
def test_a_run_killed_by_the_system_is_resumed_in_the_same_bits(
    settings, phase, script, checkpoint_every, tmp_path
):
    training = {"checkpoint_every": checkpoint_every}
    run(phase, settings(phase, tmp_path / "whole", training=training))
    values = settings(phase, tmp_path / "killed", training=training)
    config = build_settings(PHASE_SETTINGS[phase], values, "the test")
    file = save_settings(config, tmp_path / "config.yaml")
    dead = processes.run("-c", script, phase, file)
    assert dead.returncode == -signal.SIGKILL
    saved = torch.load(tmp_path / "killed" / "checkpoint.pt", weights_only=True)
    assert saved["step"] == checkpoint_every  # of 6: there is something left to redo and to do
    assert not (tmp_path / "killed" / "model").exists()
    run(phase, values)
    expected, found = (weights(tmp_path / name / "model") for name in ("whole", "killed"))
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    logs = [read_metrics(tmp_path / name) for name in ("whole", "killed")]
    assert logs[0] == logs[1]


def place_spy(monkeypatch):
    """The numbers of updates at which k-means places the codes."""
    placed, real = [], CodebookTraining.start

    def start(self, vectors, groups=None):
        placed.append(int(self.updater.num_updates))
        real(self, vectors, groups)

    monkeypatch.setattr(CodebookTraining, "start", start)
    return placed


@pytest.mark.parametrize("phase", ["semantic", "pixel", "joint"])
def test_codes_are_placed_before_the_first_step_and_anew_after_the_warm_up(
    settings, phase, tmp_path, monkeypatch
):
    placed = place_spy(monkeypatch)
    run(phase, settings(phase, tmp_path / "none"))
    num_codebooks = 2 if phase == "joint" else 1
    assert placed == [0] * num_codebooks
    placed.clear()
    codebook = {"warmup_steps": 4}
    run(phase, settings(phase, tmp_path / "whole", codebook=codebook))
    assert placed == [0] * num_codebooks + [4] * num_codebooks
    # A run that goes on where the warm-up ends places them as well, in the same bits.
    resumed = settings(phase, tmp_path / "resumed", codebook=codebook)
    killed(monkeypatch, phase, resumed, after_steps=4)
    placed.clear()
    run(phase, resumed)
    assert placed == [4] * num_codebooks
    expected, found = (weights(tmp_path / name / "model") for name in ("whole", "resumed"))
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


def test_images_that_place_the_codes_come_a_few_at_a_time(settings, tmp_path, monkeypatch):
    sizes, results = [], []
    real = train.SemanticPhase.start

    def start(self, batches):
        batches = list(batches)
        sizes.append([len(images) for images in batches])
        real(self, batches)
        results.append(self.model.semantic_codebook.codes.clone())

    monkeypatch.setattr(train.SemanticPhase, "start", start)
    for pixels, name in ((2**20, "whole"), (5 * 32**2, "parts")):
        monkeypatch.setattr(training_batches, "START_PIXELS", pixels)
        run("semantic", settings("semantic", tmp_path / name, codebook={"kmeans_images": 12}))
    assert sizes == [[12], [5, 5, 2]]
    assert torch.allclose(*results, atol=1e-5)


def test_the_saved_model_is_the_average_of_the_steps(settings, tmp_path, monkeypatch):
    steps = []
    real = train.TrainStep.__call__

    def call(self, step, batch):
        values = real(self, step, batch)
        steps.append({k: v.clone() for k, v in self.phase.model.state_dict().items()})
        return values

    monkeypatch.setattr(train.TrainStep, "__call__", call)
    saved = weights(run("pixel", settings("pixel", tmp_path)))
    decay = FULL["ema_decay"]
    for name in ("decoder.trunk.embed.weight", "pixel_sub_codebooks.codes"):
        average = steps[0][name].double()
        for state in steps[1:]:
            average = decay * average + (1 - decay) * state[name].double()
        assert torch.allclose(saved[name].double(), average, atol=1e-6)
        assert not torch.allclose(saved[name], steps[-1][name], atol=1e-4)
    frozen = "semantic_codebook.codes"
    assert torch.equal(saved[frozen], steps[0][frozen])


@pytest.mark.parametrize("layers", [0, 2])
def test_the_decoder_phase_can_take_an_enhance_decoder_of_another_size(
    settings, place, tmp_path, layers
):
    values = settings("decoder", tmp_path) | {"model": {"enhance_decoder_layers": layers}}
    model = load_tokenizer(run("decoder", values))
    assert len(model.enhance_decoder.trunk.blocks.layers) == layers
    before, after = weights(place / "tokenizer"), model.state_dict()
    names = [name for name in before if not name.startswith("enhance_decoder.")]
    assert len(names) > 20
    assert [name for name in names if not torch.equal(before[name], after[name])] == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_pixel_codes": 2}, "cannot set num_pixel_codes"),
        ({"enhance_decoder_layer": 2}, "did you mean enhance_decoder_layers"),
        ({"enhance_decoder_layers": -1}, "at least 0"),
    ],
)
def test_an_enhance_decoder_that_does_not_fit_is_one_sentence(settings, tmp_path, fields, message):
    with pytest.raises(UserError, match=message) as refusal:
        run("decoder", settings("decoder", tmp_path) | {"model": fields})
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("phase", "sections", "name"),
    [
        ("semantic", {"cosine_weight": -1.0}, "cosine_weight"),
        ("semantic", {"auxiliary_teachers": [{"teacher": "clip", "weight": -1.0}]}, "weight"),
        ("joint", {"l1_weight": -1.0}, "l1_weight"),
        ("pixel", {"loss": {"l2_weight": -1.0}}, r"loss\.l2_weight"),
    ],
)
def test_a_loss_that_would_be_driven_up_is_refused(settings, tmp_path, phase, sections, name):
    values = settings(phase, tmp_path / "out") | sections
    with pytest.raises(UserError, match=name + r"\W must be greater than or equal to 0, not -1"):
        run(phase, values)
    assert not (tmp_path / "out").exists()
