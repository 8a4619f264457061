"""Measuring while training, and alarms."""

import pytest
import torch
from PIL import Image

from runtime.metrics_log import read_metrics
from tests.tokenizer.phases import killed, run
from tokenizer.saved.model_folder import load_tokenizer
from tokenizer.training.validation import Validation


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
