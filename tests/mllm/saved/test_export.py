"""An exported model is a plain LM with the logits of the unified one."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mllm.phase.lora_phase import put_lora
from mllm.phase.settings import LoRASettings
from mllm.saved import export
from mllm.saved.export import export_llm
from mllm.saved.load import load_model
from mllm.saved.settings import ExportSettings
from runtime.errors import UserError
from semhitok import main as cli
from tests.mllm.init.test_build import extend, save_llm
from tests.mllm.tiny import NUM_PIXEL, NUM_SEMANTIC

NUM_CODES = NUM_SEMANTIC * NUM_PIXEL


def make_flat(world, tmp_path, model_type, image_input="adapter", **fields):
    """A flat model whose image parts are large enough to show."""
    llm = save_llm(world, tmp_path / "llm", model_type, **fields)
    settings = {"image_head": "flat", "image_input": image_input}
    folder = extend(world, llm, tmp_path / "unified", **settings)
    model = load_model(folder)
    torch.manual_seed(2)
    with torch.no_grad():
        for part in (model.adapter, model.image_head):
            for parameter in part.parameters():
                parameter.normal_(std=0.3)
    model.save_pretrained(folder)
    return folder, model.eval()


@pytest.mark.parametrize(
    ("model_type", "tied", "name", "image_input"),
    [
        ("qwen2", True, "Qwen2ForCausalLM", "adapter"),
        ("llama", False, "LlamaForCausalLM", "rows"),
        ("mistral", False, "MistralForCausalLM", "adapter"),
        ("phi", False, "PhiForCausalLM", "adapter"),  # its head has a bias
    ],
)
def test_logits_over_all_rows_are_the_unified_models(
    world, tmp_path, monkeypatch, model_type, tied, name, image_input
):
    folder, model = make_flat(world, tmp_path, model_type, image_input, tie_word_embeddings=tied)
    monkeypatch.setattr(export, "SHARD_BYTES", 20_000)
    monkeypatch.setattr(export, "CHUNK", 4)  # not a divisor of the 15 codes
    out = export_llm(ExportSettings(model=folder, out=tmp_path / "plain"))
    assert len(list(out.glob("model-*.safetensors"))) > 2
    plain, found = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert type(plain).__name__ == name
    assert not any(found[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))

    offset = model.vocabulary.offset
    text = torch.randint(0, offset, (1, 6))
    token_ids = torch.cat([text, torch.arange(offset, offset + NUM_CODES)[None], text], dim=1)
    with torch.no_grad():
        outputs = model(token_ids)
        wanted = torch.cat([outputs.logits, model.image_head.rows(outputs.last_hidden_state)], -1)
        logits = plain.eval()(token_ids).logits
    assert logits.shape[-1] == offset + NUM_CODES and wanted.std() > 0.1
    torch.testing.assert_close(logits, wanted, atol=1e-5, rtol=1e-5)


def test_the_folder_says_where_image_tokens_lie_and_has_the_text_tokenizer(world, tmp_path):
    folder, model = make_flat(world, tmp_path, "llama")
    command = ["export-llm", "--model", str(folder), "--out", str(tmp_path / "plain")]
    assert cli.main(command) == 0
    places = json.loads((tmp_path / "plain" / "image_tokens.json").read_text())
    assert places["image_token_offset"] == model.vocabulary.offset
    assert places["num_semantic_codes"] * places["num_pixel_codes"] == NUM_CODES
    ours, theirs = (AutoTokenizer.from_pretrained(f) for f in (folder, tmp_path / "plain"))
    assert ours("what color is it?").input_ids == theirs("what color is it?").input_ids
    assert ours.convert_ids_to_tokens(places["begin_of_image_token_id"]) == "<|image_begin|>"


@pytest.mark.parametrize(
    ("model_type", "settings", "message"),
    [
        ("llama", {"image_head": "hierarchical"}, "train a model with image_head: flat"),
        (
            "llama",
            {"image_head": "flat", "image_positions": "grid"},
            "train a model with image_positions: none",
        ),
        ("gemma", {"image_head": "flat"}, "'gemma' model scales its embeddings"),
    ],
)
def test_what_cannot_be_folded_is_one_sentence(world, tmp_path, model_type, settings, message):
    llm = save_llm(world, tmp_path / "llm", model_type)
    folder = extend(world, llm, tmp_path / "unified", **settings)
    with pytest.raises(UserError, match=message):
        export_llm(ExportSettings(model=folder, out=tmp_path / "plain"))
    assert not (tmp_path / "plain").exists()


def test_a_model_with_lora_layers_is_to_be_merged_first(world, tmp_path):
    folder, model = make_flat(world, tmp_path, "llama")
    put_lora(model, LoRASettings(rank=2), [3, 4], folder)
    model.save_pretrained(folder)
    with pytest.raises(UserError, match="has LoRA layers beside its matrices; merge them first"):
        export_llm(ExportSettings(model=folder, out=tmp_path / "plain"))
    assert not (tmp_path / "plain").exists()


def test_an_image_tokenizer_is_one_sentence(world, tmp_path):
    with pytest.raises(UserError, match="holds a 'semhitok' model, not a unified one"):
        export_llm(ExportSettings(model=world.tokenizer, out=tmp_path / "plain"))


def test_weights_that_are_not_there_are_one_sentence(world, tmp_path):
    folder, _ = make_flat(world, tmp_path, "llama")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="missing or broken"):
        export_llm(ExportSettings(model=folder, out=tmp_path / "plain"))
    assert not (tmp_path / "plain" / "config.json").exists()
