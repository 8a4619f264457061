"""Steps that are not finite, micro-batches, precision and the layer that makes the pixels."""

import json

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from runtime.errors import UserError
from runtime.metrics_log import read_metrics
from tests.tokenizer.phases import ADVERSARIAL, EVERY_PHASE, run, weights
from tokenizer.model.codebook import GroupedCodebook
from tokenizer.training import train
from tokenizer.training.settings import PHASE_SETTINGS


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
    with pytest.raises(UserError, match=r"10 steps in a row, .*/nonfinite_batches.json"):
        run("decoder", values)
    rows = json.loads((tmp_path / "nonfinite_batches.json").read_text())
    assert [row["step"] for row in rows] == list(range(2, 12))

    from data_pipelines.loading.batches import StepBatches
    from data_pipelines.loading.dataset import PreparedDataset

    ids, batches = PreparedDataset(prepared).ids, StepBatches(24, 8, seed=0)
    assert rows[0]["record_ids"] == [ids[i] for i in batches.indices(1)]


@pytest.mark.parametrize("phase", EVERY_PHASE)
def test_a_learning_rate_that_explodes_saves_nothing(settings, phase, tmp_path):
    training = {"learning_rate": 1e30, "num_steps": 25, "warmup_steps": 0}
    values = settings(phase, tmp_path, training=training)
    with pytest.raises(UserError, match=r"not finite, and nothing is saved; .*overwrite=true"):
        run(phase, values)
    assert not (tmp_path / "model").exists()
    # What the sentence advises works in the same folder.
    values = settings(phase, tmp_path, training={"num_steps": 2}) | {"overwrite": True}
    assert all(bool(torch.isfinite(value).all()) for value in weights(run(phase, values)).values())


def test_a_run_that_ends_in_a_skipped_step_saves_nothing(settings, tmp_path, monkeypatch):
    spoil(monkeypatch, {5})
    with pytest.raises(UserError, match=r"1 steps in a row, up to step 6, .*nonfinite_batches"):
        run("pixel", settings("pixel", tmp_path))
    assert not (tmp_path / "model").exists()


def test_micro_batches_equal_the_whole_batch(settings, tmp_path):
    folders = {}
    for size in (8, 3, 1):
        values = settings(
            "pixel",
            tmp_path / str(size),
            training={"micro_batch_size": size, "num_steps": 3, "ema_decay": 0.0},
            loss={"adversarial": ADVERSARIAL},
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


def test_steps_without_a_gradient_save_nothing(settings, tmp_path):
    values = settings("decoder", tmp_path)
    waits = {"adversarial": ADVERSARIAL | {"start_step": 100}}
    values["loss"] = {"l1_weight": 0, "l2_weight": 0} | waits
    with pytest.raises(UserError, match="6 steps in a row is 0 everywhere, so nothing is learned"):
        run("decoder", values)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("phase", ["semantic", "pixel", "decoder", "joint"])
def test_losses_without_a_weight_are_refused(settings, tmp_path, phase):
    values = settings(phase, tmp_path)
    none = {"cosine_weight": 0, "l1_weight": 0, "codebook": {"commitment_weight": 0}}
    none["loss"] = {"l1_weight": 0, "l2_weight": 0}
    fields = PHASE_SETTINGS[phase].model_fields
    with pytest.raises(UserError, match="the weight of every loss is 0"):
        run(phase, values | {key: value for key, value in none.items() if key in fields})
