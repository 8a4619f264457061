"""A run that diverges stops, names its step and records, and saves nothing."""

import json
import math

import pytest
import torch

from data_pipelines.loading.dataset import PreparedDataset
from mllm.training.train import train_mllm
from mllm.training.trainer import UnifiedTrainer
from runtime.errors import UserError
from runtime.metrics_log import read_metrics
from semhitok import main as cli
from tests.mllm.tiny import write_phase
from tests.mllm.training.test_train import same, weights


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_learning_rate_that_explodes_is_one_sentence(world, tmp_path, capsys, optimizer):
    out = tmp_path / "run"
    settings = world.phase(
        out, num_steps=80, learning_rate=1e6, checkpoint_every=5, optimizer=optimizer
    )
    config = write_phase(
        tmp_path / "mllm.yaml", settings.model_copy(update={"checkpoint_every": 5})
    )
    assert cli.main(["train", "mllm", "--config", str(config)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("semhitok: error: the loss or gradient of the steps")
    assert "is not finite, and no model is saved" in error and "lower learning_rate" in error
    assert not (out / "model").exists() and not (out / "finished.json").exists()
    bad = json.loads((out / "nonfinite_batches.json").read_text())
    assert len(bad) == 10 and bad[-1]["step"] - bad[0]["step"] == 9
    names = {record.record_id for record in world_records(world)}
    assert all(set(step["record_ids"]) <= names and step["record_ids"] for step in bad)
    # Nothing says 0 in place of a loss that is none.
    lines = {line["step"]: line for line in read_metrics(out)}
    for step in bad[:-1]:
        line = lines[step["step"]]
        assert not math.isfinite(line["loss"]) or not math.isfinite(line["grad_norm"])
    assert all(line["loss"] != 0 for line in lines.values())


def world_records(world):
    return list(PreparedDataset(world.data).texts())


def test_what_the_sentence_says_helps_in_that_folder(world, tmp_path, capsys):
    diverged = world.phase(tmp_path, num_steps=30, learning_rate=1e6, checkpoint_every=5)
    with pytest.raises(UserError, match="lower learning_rate, and add overwrite=true"):
        train_mllm(diverged)
    lower = diverged.model_copy(update={"learning_rate": 1e-3, "num_steps": 3, "overwrite": True})
    train_mllm(lower)
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3]


def test_a_run_that_ends_in_bad_steps_saves_nothing(world, tmp_path, monkeypatch, capsys):
    compute = UnifiedTrainer.compute_loss

    def bad_from_the_third_step(self, *args, **kwargs):
        loss = compute(self, *args, **kwargs)
        return loss * float("nan") if self.state.global_step >= 2 else loss

    monkeypatch.setattr(UnifiedTrainer, "compute_loss", bad_from_the_third_step)
    with pytest.raises(UserError, match=r"of the steps 3 to 5 is not finite, and no model is sav"):
        train_mllm(world.phase(tmp_path, num_steps=5))
    assert len(json.loads((tmp_path / "nonfinite_batches.json").read_text())) == 3
    assert not (tmp_path / "model").exists() and not (tmp_path / "finished.json").exists()


def test_weights_that_the_last_step_spoils_are_not_saved(world, tmp_path):
    with pytest.raises(UserError, match=r"has weights that are not finite .*lower learning rate"):
        # Beyond what settings allow, so that one step is enough.
        short = world.phase(tmp_path, num_steps=1, warmup_steps=0)
        train_mllm(short.model_copy(update={"learning_rate": 1e39}))
    assert not (tmp_path / "model").exists() and not (tmp_path / "finished.json").exists()


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_one_bad_step_moves_nothing_and_the_log_recovers(
    world, tmp_path, monkeypatch, capsys, optimizer
):
    compute, kept = UnifiedTrainer.compute_loss, {}

    def spoiled(self, model, *args, **kwargs):
        loss = compute(self, model, *args, **kwargs)
        if self.state.global_step in (2, 3):  # before and after the third step
            kept[self.state.global_step] = {n: p.clone() for n, p in model.named_parameters()}
        return loss * float("nan") if self.state.global_step == 2 else loss

    monkeypatch.setattr(UnifiedTrainer, "compute_loss", spoiled)
    folder = train_mllm(world.phase(tmp_path, num_steps=5, optimizer=optimizer))
    assert (
        "step 3 skipped: a loss or gradient is not finite (1 in a row)" in capsys.readouterr().err
    )
    assert same(kept[2], kept[3])
    losses = [line["loss"] for line in read_metrics(tmp_path)]
    assert [math.isfinite(loss) for loss in losses] == [True, True, False, True, True]
    assert all(torch.isfinite(tensor).all() for tensor in weights(folder).values())
