"""A pass over the slot cache is transformers' own forward, for every family of models."""

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from mllm.drawing.cpu.prepacked import PrepackedLinear
from mllm.drawing.step.decoder_step import LeanStep, OwnStep, is_known
from mllm.drawing.step.slots import Prefix, SlotCache

SIZE = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 50, "max_position_embeddings": 256, "head_dim": 8,
    "pad_token_id": 0,
}  # fmt: skip
FAMILIES = {
    "llama": ({}, LeanStep),
    "mistral": ({"sliding_window": None}, LeanStep),
    "mistral-sliding": ({"sliding_window": 9}, LeanStep),
    "qwen2": ({}, LeanStep),
    "qwen2-sliding": (
        {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}, LeanStep
    ),
    "qwen3": ({}, LeanStep),
    "gemma": ({}, OwnStep),
    "gemma2": ({"sliding_window": 9, "query_pre_attn_scalar": 8}, OwnStep),
    "gemma3_text": ({"sliding_window": 9, "query_pre_attn_scalar": 8}, OwnStep),
}  # fmt: skip


@torch.no_grad()
def make_decoder(family):
    """Of random weights large enough to tell one layer from another."""
    torch.manual_seed(0)
    config = CONFIG_MAPPING[family.split("-")[0]](**SIZE, **FAMILIES[family][0])
    decoder = AutoModelForCausalLM.from_config(config).eval().get_decoder()
    for name, parameter in decoder.named_parameters():
        parameter.normal_(1.0 if "norm" in name else 0.0, 0.2)
    return decoder


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("own", [False, True])
def test_passes_over_the_cache_equal_one_forward(family, own):
    decoder, kind = make_decoder(family), FAMILIES[family][1]
    assert is_known(decoder) == (kind is LeanStep)
    step = OwnStep(decoder) if own else kind(decoder)
    lengths, more = (5, 14, 8), 12
    rows = [torch.randn(1, length + more, 32) for length in lengths]
    cache = SlotCache(len(rows))
    for row, (inputs, length) in enumerate(zip(rows, lengths, strict=True)):
        output = decoder(inputs_embeds=inputs[:, :length], use_cache=True)
        full = [layer.keys[0] for layer in output.past_key_values.layers]
        if any(keys.shape[1] < length for keys in full):  # a sliding cache has forgotten the first
            output = decoder(inputs_embeds=inputs[:, :length], past_key_values=_plain_cache())
            full = [layer.keys[0] for layer in output.past_key_values.layers]
        values = [layer.values[0] for layer in output.past_key_values.layers]
        cache.insert(row, Prefix(full, values, output.last_hidden_state[0, -1]), more)
    expected = [decoder(inputs_embeds=inputs).last_hidden_state[0] for inputs in rows]
    for number in range(more):
        positions = torch.tensor(lengths) + number
        cache.set_positions(0, positions, cache.num_visible(int(positions.max())))
        embeddings = torch.stack(
            [inputs[0, position] for inputs, position in zip(rows, positions, strict=True)]
        )
        hidden = step(embeddings, positions, cache)
        wanted = torch.stack([e[at] for e, at in zip(expected, positions, strict=True)])
        torch.testing.assert_close(hidden, wanted, atol=2e-5, rtol=2e-5)


@torch.no_grad()
@pytest.mark.parametrize("family", [name for name in FAMILIES if FAMILIES[name][1] is LeanStep])
def test_a_prompt_leaves_what_transformers_own_forward_leaves(family):
    decoder = make_decoder(family)
    for length in (1, 7, 20):  # the last beyond the window of those that slide
        prompt = torch.randn(length, 32)
        expected, mine = OwnStep(decoder).read(prompt), LeanStep(decoder).read(prompt)
        assert len(mine) == len(expected) == length
        for name in ("keys", "values"):
            torch.testing.assert_close(getattr(mine, name), getattr(expected, name))
        torch.testing.assert_close(mine.hidden, expected.hidden, atol=2e-5, rtol=2e-5)


@torch.no_grad()
@pytest.mark.parametrize("make_product", [None, PrepackedLinear])
def test_a_remembered_prompt_holds_its_keys_and_values_alone(make_product):
    prefix = LeanStep(make_decoder("qwen2"), make_product).read(torch.randn(7, 32))
    for tensor in (*prefix.keys, *prefix.values):
        assert tensor.untyped_storage().nbytes() == tensor.nbytes


def _plain_cache():
    from transformers import DynamicCache

    return DynamicCache()
