"""A pre-trained language model says of text what it said before, to the last bit."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from mllm.init.build import init_mllm
from mllm.init.settings import InitSettings
from mllm.saved.load import load_model
from runtime.errors import UserError
from semhitok import main as cli

ARCHITECTURES = {
    "qwen2": {"tie_word_embeddings": True},  # Qwen2.5 too, its large sizes untied
    "qwen3": {"tie_word_embeddings": False},
    "llama": {"tie_word_embeddings": False},
    "smollm2": {"model_type": "llama", "tie_word_embeddings": True, "num_attention_heads": 4},
    "gemma": {"tie_word_embeddings": True},
    "mistral": {"tie_word_embeddings": False, "sliding_window": 8},
}


def save_llm(world, folder, model_type, dtype=torch.float32, **fields):
    """A small language model with random weights, large enough to tell its logits apart."""
    text_tokenizer = AutoTokenizer.from_pretrained(world.start)
    sizes = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
    }  # fmt: skip
    config = AutoConfig.for_model(
        model_type, **sizes | fields,
        vocab_size=len(text_tokenizer), pad_token_id=text_tokenizer.pad_token_id,
        bos_token_id=text_tokenizer.bos_token_id, eos_token_id=text_tokenizer.eos_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    language_model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in language_model.parameters():
            parameter.normal_(std=0.3)
    language_model.to(dtype).save_pretrained(folder)
    text_tokenizer.save_pretrained(folder)
    return folder


def extend(world, llm, out, **settings):
    return init_mllm(InitSettings(tokenizer=world.tokenizer, out=out, llm=str(llm), **settings))


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_text_logits_are_the_language_models_own_to_the_last_bit(world, tmp_path, model_type):
    fields = {"model_type": model_type} | ARCHITECTURES[model_type]
    llm = save_llm(world, tmp_path / "llm", **fields)
    plain = AutoModelForCausalLM.from_pretrained(llm).eval()
    model = load_model(extend(world, llm, tmp_path / "out")).eval()
    token_ids = torch.randint(0, plain.config.vocab_size, (2, 12))
    with torch.no_grad():
        wanted, logits = plain(token_ids).logits, model(token_ids).logits
    assert wanted.dtype == torch.float32 and wanted.std() > 0.1
    assert torch.equal(logits[..., : wanted.shape[-1]], wanted)


def test_a_language_model_saved_in_bfloat16_becomes_float32_with_the_same_values(world, tmp_path):
    llm = save_llm(world, tmp_path / "llm", "qwen2", torch.bfloat16)
    plain = AutoModelForCausalLM.from_pretrained(llm, dtype=torch.float32).eval()
    model = load_model(extend(world, llm, tmp_path / "out")).eval()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    token_ids = torch.arange(10).unsqueeze(0)
    with torch.no_grad():
        assert torch.equal(model(token_ids).logits, plain(token_ids).logits)


@pytest.mark.parametrize(
    ("model_type", "fields"),
    [("gemma2", {"num_hidden_layers": 1, "num_key_value_heads": 2, "head_dim": 16}),
     ("gpt2", {"n_embd": 32, "n_layer": 1, "n_head": 2}), ("mamba", {"num_hidden_layers": 1}),
     ("bert", {"is_decoder": True, "num_hidden_layers": 1})],
)  # fmt: skip
def test_an_architecture_that_cannot_be_packed_is_one_sentence(world, tmp_path, model_type, fields):
    text_tokenizer = AutoTokenizer.from_pretrained(world.start)
    config = AutoConfig.for_model(
        model_type, vocab_size=len(text_tokenizer), hidden_size=32, intermediate_size=64,
        num_attention_heads=2, **fields,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "llm")
    text_tokenizer.save_pretrained(tmp_path / "llm")
    with pytest.raises(UserError, match=f"(of the architecture|on a) '{model_type}'") as refusal:
        extend(world, tmp_path / "llm", tmp_path / "out")
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "out" / "config.json").exists()


def test_an_architecture_that_transformers_does_not_know_is_one_sentence(world, tmp_path):
    llm = save_llm(world, tmp_path / "llm", "llama")
    config = json.loads((llm / "config.json").read_text())
    (llm / "config.json").write_text(json.dumps(config | {"model_type": "llama9"}))
    with pytest.raises(UserError, match="no causal language model can be loaded") as refusal:
        extend(world, llm, tmp_path / "out")
    assert "\n" not in str(refusal.value)


def test_logits_changed_after_the_head_are_one_sentence(world, tmp_path):
    llm = save_llm(world, tmp_path / "llm", "granite", logits_scaling=2.0)
    with pytest.raises(UserError, match="'granite' model changes its logits after the head"):
        extend(world, llm, tmp_path / "out")
    assert not (tmp_path / "out" / "config.json").exists()


def test_the_command_needs_no_yaml(world, tmp_path, capsys):
    llm = save_llm(world, tmp_path / "llm", "llama")
    settings = [f"llm={llm}", f"tokenizer={world.tokenizer}", f"out={tmp_path / 'out'}"]
    assert cli.main(["init-mllm", *settings]) == 0
    assert load_model(tmp_path / "out").config.text_config.model_type == "llama"
    assert cli.main(["init-mllm", settings[0]]) == 2
    assert 'required key "tokenizer" is missing' in capsys.readouterr().err


def test_sizes_that_are_not_the_language_models_are_one_sentence(world, tmp_path):
    llm = save_llm(world, tmp_path / "llm", "llama")
    with pytest.raises(UserError, match=r"text_config\.hidden_size is 48, but 32 in"):
        extend(world, llm, tmp_path / "out", text_config={"model_type": "llama", "hidden_size": 48})
