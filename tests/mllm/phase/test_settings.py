from pathlib import Path

import pytest

from mllm.phase.settings import LearningRateMultipliers, PhaseSettings
from runtime.errors import UserError
from runtime.settings import load_settings
from runtime.value_types import anywhere


def test_a_phase_is_the_file_with_its_section_and_then_the_overrides(file, tmp_path):
    align, sft = (
        load_settings(PhaseSettings, file, [f"phase={name}"]) for name in ("align", "sft")
    )
    assert (align.phase, align.out, align.learning_rate) == ("align", tmp_path / "align", 3e-3)
    assert align.learning_rate_multipliers == LearningRateMultipliers(layers=0, embed_tokens=0)
    assert (sft.learning_rate, sft.mixture.answer_weight) == (1e-3, 2.0)
    assert sft.learning_rate_multipliers == LearningRateMultipliers()
    assert load_settings(PhaseSettings, file, ["phase=sft", "learning_rate=5"]).learning_rate == 5


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], r"has several phases; add phase=align\|sft$"),
        (["phase=pretrain"], r"add phase=align\|sft, not pretrain$"),
    ],
)
def test_an_unknown_phase_is_one_sentence(file, overrides, message):
    with pytest.raises(UserError, match=message):
        load_settings(PhaseSettings, file, overrides)


def test_a_slip_in_a_section_that_is_not_chosen_is_found(file):
    file.write_text(file.read_text().replace("answer_weight", "answer_wait"))
    with pytest.raises(UserError, match=r'phase=sft\): unknown key "mixture.answer_wait"; did you'):
        load_settings(PhaseSettings, file, ["phase=align"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attention": "flash"}, "attention flash computes in bfloat16"),
        ({"attention": "flash", "bf16": True}, "attention flash knows no shared prefixes"),
        ({"optimizer": "muon", "lora": {}}, "muon is made for whole matrices"),
        ({"optimizer": "muon", "deepspeed": "zero2.json"}, "muon needs whole matrices"),
        (
            {"optimizer": "muon", "learning_rate_multipliers": {"layers": 0}},
            "muon moves the layers, whose multiplier is 0",
        ),
        (
            {
                "mixture": {"proportions": {"drawing": 0}},
                "learning_rate_multipliers": {
                    "image_adapter": 0,
                    "layers": 0,
                    "embed_tokens": 0,
                },
            },
            "the image_head alone trains, and no drawing counts",
        ),
        ({"sources": [{"data": "more"}]}, "give either data .* or sources, not both"),
        ({"data": None}, "give either data .* or sources, not both"),
    ],
)
def test_settings_that_exclude_each_other_are_one_sentence(world, tmp_path, settings, message):
    with anywhere(), pytest.raises(ValueError, match=message):
        world.phase(tmp_path, **settings)


def test_a_home_is_found_in_every_folder(world, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with anywhere():
        phase = world.phase(Path("~/run"), model="~/model", data="~/data", codes=None)
    assert (phase.out, phase.model) == (tmp_path / "run", tmp_path / "model")
    assert phase.data == str(tmp_path / "data")
