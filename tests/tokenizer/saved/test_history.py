"""A tokenizer remembers its phases, and a phase refuses one that lacks what it builds on."""

import pytest

from runtime.errors import UserError
from tokenizer.codebooks.settings import CodebookSettings
from tokenizer.saved.history import add_phase, require_phase
from tokenizer.saved.model_folder import load_tokenizer, save_tokenizer
from tokenizer.training.settings import (
    DecoderPhaseSettings,
    PixelPhaseSettings,
    TrainingSettings,
)
from tokenizer.training.train import train_phase

TRAINING = TrainingSettings(num_steps=1, global_batch_size=2, learning_rate=1e-3)


def record(phase, num_steps=1):
    sizes = {"num_steps": num_steps, "global_batch_size": 2, "num_records": 3}
    return {"phase": phase, "data": [], "data_fingerprint": "f" * 64} | sizes


def test_phases_are_kept_in_order_and_one_trained_again_replaces_its_record(tiny_model):
    config = tiny_model().config
    for phase, steps in (("semantic", 1), ("pixel", 2), ("semantic", 3)):
        add_phase(config, record(phase, num_steps=steps))
    assert [(entry["phase"], entry["num_steps"]) for entry in config.training_history] == [
        ("pixel", 2),
        ("semantic", 3),
    ]


def test_a_trained_folder_tells_its_training(tiny_model, prepared, tmp_path):
    save_tokenizer(tiny_model(), tmp_path / "start", record("semantic"))
    folder = train_phase(
        PixelPhaseSettings(
            data=prepared,
            out=tmp_path / "run",
            tokenizer=tmp_path / "start",
            training=TRAINING,
            codebook=CodebookSettings(kmeans_images=8),
        ),
    )
    history = load_tokenizer(folder).config.training_history
    assert [entry["phase"] for entry in history] == ["semantic", "pixel"]
    assert history[1]["num_steps"] == 1
    assert history[1]["num_records"] == 24
    assert len(history[1]["data_fingerprint"]) == 64
    assert "| pixel | 1 | 2 |" in (folder / "README.md").read_text()
    assert str(tmp_path) not in (folder / "README.md").read_text()


def test_the_decoder_phase_refuses_a_tokenizer_without_pixel_codes(tiny_model, prepared, tmp_path):
    save_tokenizer(tiny_model(), tmp_path / "start", record("semantic"))
    config = DecoderPhaseSettings(
        data=prepared, out=tmp_path / "run", tokenizer=tmp_path / "start", training=TRAINING
    )
    with pytest.raises(UserError, match=r"phase semantic alone; run `semhitok train pixel` first"):
        train_phase(config)


@pytest.mark.parametrize("trained", [[], ["semantic", "pixel"], ["joint"]], ids=str)
def test_a_tokenizer_that_may_have_been_trained_is_taken(tiny_model, trained):
    config = tiny_model().config
    for phase in trained:
        add_phase(config, record(phase))
    require_phase(config, "pixel", "here")
    require_phase(config, "semantic", "here")
