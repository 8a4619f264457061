import json
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import SiglipVisionConfig, SiglipVisionModel

from runtime.errors import UserError
from runtime.resume import run_lock
from tests.limits import largest_file
from tokenizer.model.modeling_semhitok import SemHiTokModel
from tokenizer.saved.model_folder import load_tokenizer, save_tokenizer, whole_folder


@pytest.fixture
def saved(tiny_model, tmp_path):
    save_tokenizer(tiny_model(), tmp_path / "model")
    return tmp_path / "model"


def refusal(folder):
    """The one sentence that a folder is refused with."""
    with pytest.raises(UserError) as refused:
        load_tokenizer(folder)
    sentence = str(refused.value)
    assert "\n" not in sentence
    assert str(folder) in sentence
    return sentence


def edit(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_a_folder_carries_weights_config_and_image_processor(saved):
    names = {path.name for path in saved.iterdir()}
    assert names == {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"}
    assert isinstance(load_tokenizer(saved), SemHiTokModel)


def test_no_such_folder(tmp_path):
    assert "no config.json" in refusal(tmp_path / "nowhere")


def test_a_folder_of_another_kind_of_model(tmp_path, vision_fields):
    SiglipVisionModel(SiglipVisionConfig(**vision_fields)).save_pretrained(tmp_path)
    assert "'siglip_vision_model' model, not an image tokenizer" in refusal(tmp_path)
    # Of a class that transformers does not know, as the unified model before it is imported.
    (tmp_path / "config.json").write_text('{"model_type": "nowhere_to_be_found"}')
    assert "'nowhere_to_be_found' model, not an image tokenizer" in refusal(tmp_path)


@pytest.mark.parametrize(
    "fields",
    [
        {"num_semantic_codes": 16},
        {"num_pixel_codes": 2},
        {"pixel_code_dim": 4},
        {"decoder_layers": 2},  # weights are missing
        {"image_size": 64},
    ],
)
def test_weights_of_another_shape(saved, fields):
    edit(saved, **fields)
    assert "do not fit its config.json" in refusal(saved)


def test_weights_that_the_config_knows_nothing_of(saved, tiny_model):
    save_tokenizer(tiny_model(decoder_layers=2), saved)
    edit(saved, decoder_layers=1)
    assert "do not fit its config.json" in refusal(saved)


def test_cut_weights(saved):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    assert "broken file" in refusal(saved)


def test_missing_weights(saved):
    (saved / "model.safetensors").unlink()
    refusal(saved)


def test_pickled_weights_are_not_read(saved):
    (saved / "model.safetensors").rename(saved / "pytorch_model.bin")
    refusal(saved)


@pytest.mark.parametrize(
    "text", ["{", "", "[]", '{"model_type": "nonsense"}', '{"patch_size": 8}'], ids=repr
)
def test_a_config_that_cannot_be_read(saved, text):
    (saved / "config.json").write_text(text)
    refusal(saved)


@pytest.mark.parametrize(
    "fields",
    [
        {"image_size": "large"},
        {"image_size": 30},
        {"teacher_config": {"model_type": "nonsense"}},
        {"semantic_attention_heads": 3},
        {"pixel_stem": "magic"},
    ],
    ids=str,
)
def test_a_config_that_describes_no_model(saved, fields):
    edit(saved, **fields)
    refusal(saved)


def test_the_sentence_names_what_does_not_fit(saved):
    edit(saved, num_semantic_codes=16)
    assert re.search(r"codes", refusal(saved))


def test_a_folder_that_is_being_written_is_no_model(saved, tiny_model):
    (saved / "notes.txt").write_text("mine\n")
    (saved / "model-00001-of-00002.safetensors").write_text("a shard of an older, larger model")
    with pytest.raises(KeyboardInterrupt), whole_folder(saved) as unfinished:
        tiny_model().save_pretrained(unfinished)
        assert unfinished.parent == saved  # which may be a mounted disk
        raise KeyboardInterrupt
    load_tokenizer(saved)  # the old one

    save_tokenizer(tiny_model(), saved)
    load_tokenizer(saved)
    assert (saved / "notes.txt").read_text() == "mine\n"
    assert not (saved / "model-00001-of-00002.safetensors").exists()
    assert [path.name for path in saved.rglob("*") if "unfinished" in path.name] == []


def test_all_files_have_the_mode_that_the_umask_says(tiny_model, tmp_path):
    before = os.umask(0o027)
    try:
        with whole_folder(tmp_path / "model") as unfinished:
            tiny_model().save_pretrained(unfinished, max_shard_size="20KB")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "model").iterdir()}
    assert len(modes) > 5 and set(modes.values()) == {0o640}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_neither_read_nor_written(saved, tiny_model, value):
    weights = load_file(saved / "model.safetensors")
    weights["decoder.trunk.embed.bias"][3] = value
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    assert "weights that are not finite (decoder.trunk.embed.bias)" in refusal(saved)
    model = tiny_model()
    with torch.no_grad():
        model.semantic_codebook.codes[0, 1, 2] = value
    with pytest.raises(UserError, match=r"not finite \(semantic_codebook\.codes\)"):
        save_tokenizer(model, saved.parent / "new")
    assert not (saved.parent / "new").exists()


def test_a_full_disk_is_one_sentence_and_leaves_the_old_model(saved, tiny_model):
    with largest_file(10_000), pytest.raises(UserError, match=r"cannot write .*model: .*space"):
        save_tokenizer(tiny_model(seed=1), saved)
    load_tokenizer(saved)
    assert [path.name for path in saved.parent.iterdir()] == ["model"]


def test_two_at_once_are_refused(saved, tiny_model):
    with run_lock(saved), pytest.raises(UserError, match=r"another run .* is writing to"):
        save_tokenizer(tiny_model(), saved)


def test_the_working_folder_can_hold_a_model(tiny_model, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    save_tokenizer(tiny_model(), Path("."))
    load_tokenizer(".")
