"""Training with everything on: adversary, averages, micro-batches, validation, exact resume."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from transformers import SiglipVisionModel

from runtime.errors import UserError
from runtime.metrics_log import read_metrics
from runtime.settings import build_settings, save_settings
from tokenizer.codebooks.training import CodebookTraining
from tokenizer.model.codebook import GroupedCodebook
from tokenizer.saved.model_folder import load_tokenizer, save_tokenizer
from tokenizer.training import batches as training_batches
from tokenizer.training import train
from tokenizer.training.new_model import train_only
from tokenizer.training.settings import PHASE_SETTINGS
from tokenizer.training.train_step import last_layer
from tokenizer.training.validation import Validation

TRAINING = {
    "num_steps": 6,
    "global_batch_size": 8,
    "learning_rate": 5e-3,
    "warmup_steps": 2,
    "log_every": 1,
    "checkpoint_every": 2,
}
FULL = TRAINING | {"micro_batch_size": 3, "ema_decay": 0.7, "max_shift": 2, "schedule": "constant"}
ADVERSARIAL = {
    "discriminator": "patchgan",
    "width": 4,
    "num_layers": 1,
    "weight": 0.5,
    "adaptive": True,
    "start_step": 1,
    "warmup_steps": 3,
    "r1_weight": 1.0,
    "r1_every": 2,
    "lecam_weight": 0.1,
    "augment_probability": 0.5,
}
PLAYS = ("pixel", "decoder", "joint")  # against a discriminator
EVERY_PHASE = ("teacher", "semantic", *PLAYS)


@pytest.fixture(scope="module")
def place(prepared, tiny_model, tmp_path_factory):
    """A tiny untrained tokenizer and its teacher, to start phases from; only to be read."""
    root = tmp_path_factory.mktemp("full")
    model = tiny_model()
    save_tokenizer(model, root / "tokenizer")
    SiglipVisionModel(model.config.teacher_config).save_pretrained(root / "teacher")
    return root


@pytest.fixture(scope="module")
def settings(place, prepared, model_fields, vision_fields):
    """Values of a phase's config with everything on."""

    def build(phase, out, **sections):
        values = {"data": str(prepared), "out": str(out), "training": FULL}
        if phase == "teacher":
            text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
            text |= {"num_attention_heads": 2, "max_position_embeddings": 8}
            values |= {"vision": vision_fields, "text": text, "vocab_size": 300}
        elif phase in ("semantic", "joint"):
            values |= {"teacher": str(place / "teacher"), "model": model_fields}
        else:
            values |= {"tokenizer": str(place / "tokenizer")}
        if phase in PLAYS:
            values |= {"loss": {"adversarial": ADVERSARIAL}}
        if phase != "teacher":
            values["validation"] = {"data": str(prepared), "every": 3, "num_images": 10}
        for name, fields in sections.items():
            values[name] = values.get(name, {}) | fields
        return values

    return build


def run(phase, values):
    return train.train_phase(build_settings(PHASE_SETTINGS[phase], values, "the test"))


def weights(folder):
    return load_file(Path(folder) / "model.safetensors")


def killed(monkeypatch, phase, values, after_steps):
    """Run a phase that dies in the middle of a step, past its last checkpoint."""

    class Killed(Exception):
        pass

    real = train.TrainStep.__call__

    def call(self, step, batch):
        if step == after_steps:
            raise Killed
        return real(self, step, batch)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(train.TrainStep, "__call__", call)
        run(phase, values)


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
        assert "discriminator_loss" in logs[0][-1] and "r1_penalty" in logs[0][2]
        assert "discriminator_loss" not in logs[0][0]  # it starts at the second step
        assert logs[0][-1]["lecam_loss"] > 0


# The process kills itself, which is what the system's SIGKILL is: no handler and no clean-up runs.
KILLED_AFTER_A_STEP = """
import os, signal, sys
from runtime.settings import load_settings
from tokenizer.training import batches as training_batches
from tokenizer.training import train
from tokenizer.training.settings import PHASE_SETTINGS
real = train.TrainStep.__call__
def call(self, step, batch):
    values = real(self, step, batch)
    if step == 3: os.kill(os.getpid(), signal.SIGKILL)
    return values
train.TrainStep.__call__ = call
train.train_phase(sys.argv[1], load_settings(train.PHASES[sys.argv[1]][0], sys.argv[2]))
"""
KILLED_AMID_A_CHECKPOINT = """
import os, signal, sys, torch
from runtime.settings import load_settings
from tokenizer.training import batches as training_batches
from tokenizer.training import train
from tokenizer.training.settings import PHASE_SETTINGS
real = torch.save
def save(state, path):
    real(state, path)
    if state["step"] == 4:
        os.truncate(path, 1000)
        os.kill(os.getpid(), signal.SIGKILL)
torch.save = save
train.train_phase(sys.argv[1], load_settings(train.PHASES[sys.argv[1]][0], sys.argv[2]))
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
    dead = subprocess.run([sys.executable, "-c", script, phase, str(file)])
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


def test_micro_batches_equal_the_whole_batch(settings, tmp_path):
    folders = {}
    for size in (8, 3, 1):
        values = settings(
            "pixel",
            tmp_path / str(size),
            training={"micro_batch_size": size, "num_steps": 3, "ema_decay": 0.0},
            # The ratio is of each micro-batch, and so is no function of the whole batch.
            loss={"adversarial": ADVERSARIAL | {"adaptive": False}},
        )
        folders[size] = weights(run("pixel", values))
    for size in (3, 1):
        for name, value in folders[8].items():
            if name.endswith("k_proj.bias"):
                continue  # its gradient is nought but for rounding, which AdamW blows up
            assert torch.allclose(folders[size][name], value, atol=2e-4), (size, name)
    start = weights(settings("pixel", tmp_path)["tokenizer"])
    assert max(float((folders[8][k] - start[k]).abs().max()) for k in start) > 1e-2  # it moved


def test_activation_checkpointing_changes_nothing_but_memory(settings, tmp_path):
    results = []
    for on in (False, True):
        values = settings("decoder", tmp_path / str(on), training={"activation_checkpointing": on})
        results.append(weights(run("decoder", values)))
    for name, value in results[0].items():
        assert torch.allclose(results[1][name], value, atol=1e-6), name


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


def test_validation_measures_the_saved_model_and_draws_a_grid(settings, tmp_path, prepared):
    pytest.importorskip("tensorboard")
    values = settings("decoder", tmp_path, training={"tensorboard": True})
    folder = run("decoder", values)
    records = read_metrics(tmp_path)
    measured = [r["step"] for r in records if "validation_psnr" in r]
    assert measured == [3, 6]
    for name in ("ssim", "semantic_usage", "pixel_usage", "dead_sub_codebooks"):
        assert f"validation_{name}" in records[-1]
    grid = Image.open(tmp_path / "validation" / "step-000006.png")
    assert grid.size == (8 * 32, 2 * 32)
    assert list((tmp_path / "tensorboard").iterdir())
    usage = Image.open(tmp_path / "validation" / "usage-000006.png")
    assert usage.size == (8 * 64, 4 * 64 + 1)  # K columns of M cells, and a line

    from data_pipelines.loading.dataset import PreparedDataset
    from tokenizer.losses.image_quality import image_psnr, to_levels

    dataset, model = PreparedDataset(prepared), load_tokenizer(folder).eval()
    images = torch.stack([dataset.image_tensor(i, 32) for i in range(10)])
    psnr = image_psnr(to_levels(model(images)), to_levels(images)).mean().item()
    assert records[-1]["validation_psnr"] == pytest.approx(psnr, rel=1e-4)


def test_a_run_is_measured_before_its_first_step_too(settings, place, tmp_path):
    pixels = {"before": True, "perceptual": str(place / "teacher")}
    run("pixel", settings("pixel", tmp_path / "pixel", validation=pixels))
    records = read_metrics(tmp_path / "pixel")
    assert [r["step"] for r in records if "validation_perceptual" in r] == [0, 3, 6]
    assert (tmp_path / "pixel" / "validation" / "step-000000.png").is_file()
    first, last = records[0], records[-1]
    assert last["validation_psnr"] > first["validation_psnr"]
    assert "perceptual_loss" not in last  # it is measured and not trained on

    # What is measured first is what the phase starts from: here the plain decoder, grown.
    plain = load_tokenizer(place / "tokenizer").eval()
    values = settings("decoder", tmp_path / "decoder", validation={"before": True})
    run("decoder", values | {"start_from_decoder": True})
    from data_pipelines.loading.dataset import PreparedDataset
    from tokenizer.losses.image_quality import image_psnr, to_levels

    dataset = PreparedDataset(values["data"])
    images = torch.stack([dataset.image_tensor(i, 32) for i in range(10)])
    psnr = image_psnr(to_levels(plain(images)), to_levels(images)).mean().item()
    found = read_metrics(tmp_path / "decoder")[0]
    assert found["step"] == 0 and found["validation_psnr"] == pytest.approx(psnr, rel=1e-4)


def test_a_run_that_dies_before_its_first_checkpoint_is_measured_once(
    settings, tmp_path, monkeypatch
):
    values = settings("pixel", tmp_path, validation={"before": True})
    killed(monkeypatch, "pixel", values, after_steps=1)
    run("pixel", values)
    assert [r["step"] for r in read_metrics(tmp_path)] == list(range(7))


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


@pytest.mark.parametrize("phase", ["semantic", "pixel", "joint"])
def test_half_precision_training_keeps_codebooks_in_float32(settings, phase, tmp_path, monkeypatch):
    seen, real = set(), GroupedCodebook.nearest

    def nearest(self, vectors, groups=None):
        seen.add((vectors.dtype, self.codes.dtype))
        return real(self, vectors, groups)

    full = weights(run(phase, settings(phase, tmp_path / "full")))
    monkeypatch.setattr(GroupedCodebook, "nearest", nearest)
    outputs = set()
    hook = register_module_forward_hook(
        lambda module, _, output: (
            outputs.add(output.dtype) if isinstance(module, nn.Linear) else None
        )
    )
    values = settings(phase, tmp_path / "half", training={"mixed_precision": "bf16"})
    half = weights(run(phase, values))
    hook.remove()
    assert seen == {(torch.float32, torch.float32)}
    assert torch.bfloat16 in outputs  # the guard: the networks around them are in half precision
    assert {value.dtype for value in half.values()} == {torch.float32}
    assert any(not torch.equal(full[name], half[name]) for name in full)
    first, other = (read_metrics(tmp_path / name)[0] for name in ("full", "half"))
    assert other["loss"] == pytest.approx(first["loss"], rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_r1_reaches_through_the_attention_of_a_feature_discriminator(
    settings, place, tmp_path, precision
):
    adversarial = ADVERSARIAL | {"discriminator": str(place / "teacher")}
    training = {"mixed_precision": precision}
    loss = {"adversarial": adversarial}
    run("decoder", settings("decoder", tmp_path / "out", loss=loss, training=training))
    penalties = [row["r1_penalty"] for row in read_metrics(tmp_path / "out") if "r1_penalty" in row]
    assert penalties and all(penalty > 0 for penalty in penalties)


@pytest.mark.parametrize("phase", ["semantic", "pixel"])
def test_a_compiled_phase_trains_to_the_same_weights(settings, phase, tmp_path, monkeypatch):
    real = nn.Module.compile
    compiled = []

    def compile(self):
        compiled.append(self)
        real(self, backend="eager")  # captures the graphs and needs no C++ compiler

    monkeypatch.setattr(nn.Module, "compile", compile)
    results = []
    for on in (False, True):
        values = settings(phase, tmp_path / str(on), training={"compile": on, "num_steps": 3})
        results.append(weights(run(phase, values)))
    assert len(compiled) == 1
    for name, value in results[0].items():
        assert torch.allclose(results[1][name], value, atol=1e-5), name


def test_an_alarm_is_raised_when_usage_falls(settings, tmp_path, capsys):
    run("semantic", settings("semantic", tmp_path / "a", validation={"usage_alarm": 1.0}))
    usage = read_metrics(tmp_path / "a")[-1]["validation_semantic_usage"]
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ALARM")]
    assert len(lines) == 2 * (usage < 1) or len(lines) == 1
    assert all("semantic_usage" in line and "below 1" in line for line in lines)
    assert [r["usage_alarms"] for r in read_metrics(tmp_path / "a") if "usage_alarms" in r][-1] == (
        usage < 1
    )
    run("semantic", settings("semantic", tmp_path / "b"))
    assert "ALARM" not in capsys.readouterr().err


def test_an_alarm_is_raised_when_usage_falls_from_its_highest_also_after_a_resume(
    settings, tmp_path, monkeypatch, capsys
):
    real = Validation.measure

    def measure(self, model, phase):
        values, grid = real(self, model, phase)
        share = 0.8 if not list(tmp_path.glob("checkpoint.pt")) else 0.3
        return values | {"validation_semantic_usage": share}, grid

    monkeypatch.setattr(Validation, "measure", measure)
    values = settings("semantic", tmp_path, training={"checkpoint_every": 4})
    killed(monkeypatch, "semantic", values, after_steps=5)
    assert "ALARM" not in capsys.readouterr().err
    run("semantic", values)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ALARM")]
    assert lines == [
        "ALARM step 6: semantic_usage 0.300 has fallen from 0.800; the codebook collapses"
    ]
    assert [r.get("usage_alarms") for r in read_metrics(tmp_path)][2::3] == [0, 1]


def spoil(monkeypatch, bad_steps):
    """Make the loss of some steps NaN."""
    real = train.TrainStep.__call__

    def call(self, step, batch):
        if step in bad_steps:
            batch = batch | {"images": batch["images"] * float("nan")}
        return real(self, step, batch)

    monkeypatch.setattr(train.TrainStep, "__call__", call)


def test_a_step_that_is_not_finite_is_skipped_and_leaves_nothing_behind(
    settings, tmp_path, monkeypatch, capsys
):
    spoil(monkeypatch, {2, 3})
    saved = weights(run("pixel", settings("pixel", tmp_path)))
    assert all(bool(torch.isfinite(value).all()) for value in saved.values())
    skipped = [r["step"] for r in read_metrics(tmp_path) if r.get("skipped")]
    assert skipped == [3, 4]
    assert "step 4 skipped" in capsys.readouterr().err


def test_ten_steps_in_a_row_that_are_not_finite_stop_the_run_and_name_their_records(
    settings, tmp_path, monkeypatch, prepared
):
    spoil(monkeypatch, set(range(1, 30)))
    values = settings("decoder", tmp_path, training={"num_steps": 20})
    with pytest.raises(UserError, match=r"10 steps in a row .*/nonfinite_batches.json"):
        run("decoder", values)
    rows = json.loads((tmp_path / "nonfinite_batches.json").read_text())
    assert [row["step"] for row in rows] == list(range(2, 12))

    from data_pipelines.loading.batches import StepBatches
    from data_pipelines.loading.dataset import PreparedDataset

    ids, batches = PreparedDataset(prepared).ids, StepBatches(24, 8, seed=0)
    assert rows[0]["record_ids"] == [ids[i] for i in batches.indices(1)]


def rewrite(path, change):
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)


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


def test_a_checkpoint_without_the_discriminator_is_refused(settings, tmp_path, monkeypatch):
    values = settings("pixel", tmp_path)
    killed(monkeypatch, "pixel", values, after_steps=3)
    rewrite(tmp_path / "checkpoint.pt", lambda state: state.pop("discriminator"))
    with pytest.raises(UserError, match="lacks the state of the discriminator"):
        run("pixel", values)


def cut_a_weight(state):
    weights = state["discriminator"]
    name = next(iter(weights))
    weights[name] = weights[name][:1]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (cut_a_weight, "another discriminator "),
        (lambda state: state["discriminator"].popitem(), "another discriminator "),
        (
            lambda state: state["discriminator_optimizer"]["param_groups"][0]["params"].pop(),
            "another discriminator optimizer ",
        ),
        (lambda state: state["lecam"].popitem(), "another lecam "),
        (lambda state: state["average"].popitem(), "another average "),
        (lambda state: state.pop("phase"), "no checkpoint of a training phase"),
    ],
)
def test_a_checkpoint_with_a_foreign_state_is_refused(
    settings, tmp_path, monkeypatch, change, named
):
    values = settings("pixel", tmp_path)
    killed(monkeypatch, "pixel", values, after_steps=3)
    rewrite(tmp_path / "checkpoint.pt", change)
    with pytest.raises(UserError, match=named) as refusal:
        run("pixel", values)
    assert "\n" not in str(refusal.value)


def test_a_checkpoint_of_another_codebook_size_is_refused(
    settings, tmp_path, monkeypatch, tiny_model
):
    values = settings("pixel", tmp_path / "out")
    killed(monkeypatch, "pixel", values, after_steps=3)
    save_tokenizer(tiny_model(num_pixel_codes=2), tmp_path / "other")
    other = values | {"tokenizer": str(tmp_path / "other")}

    def same_settings(state):
        state["settings"]["tokenizer"] = other["tokenizer"]

    rewrite(tmp_path / "out" / "checkpoint.pt", same_settings)
    with pytest.raises(UserError, match=r"another K, M or width: .*\(8, 4.* not \(8, 2"):
        run("pixel", other)


def test_a_checkpoint_older_than_a_setting_still_loads(settings, tmp_path, monkeypatch):
    values = settings("semantic", tmp_path / "out", training={"ema_decay": 0.0})
    del values["validation"]
    killed(monkeypatch, "semantic", values, after_steps=3)

    def older(state):
        del state["settings"]["validation"]
        del state["settings"]["training"]["compile"]

    rewrite(tmp_path / "out" / "checkpoint.pt", older)
    run("semantic", values)
    with pytest.raises(UserError, match=r"another training\.learning_rate"):
        killed(monkeypatch, "semantic", values | {"out": str(tmp_path / "b")}, after_steps=3)
        changed = values["training"] | {"learning_rate": 1e-3}
        run("semantic", values | {"out": str(tmp_path / "b"), "training": changed})


@pytest.mark.parametrize("kind", ["vit", "conv"])
def test_the_last_layer_of_a_decoder_makes_the_pixels(tiny_model, random_images, kind):
    width = 16 if kind == "vit" else 128
    model = tiny_model(decoder_kind=kind, decoder_hidden_size=width)
    codes = model.encode(random_images())
    pictures = model.decoder(model.code_vectors(codes), (4, 4))
    train_only(model, "semantic_decoder", "pixel_encoder", "decoder")
    weight = last_layer(model)
    with torch.no_grad():
        weight.zero_()
    flat = model.decoder(model.code_vectors(codes), (4, 4))
    assert len(pictures.unique()) > 1000
    # Only the bias is left, one for each channel or each pixel of a patch.
    assert len(flat.unique()) <= 3 * 8 * 8
