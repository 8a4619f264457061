import copy

import pytest
import torch
from transformers import AutoConfig

from mllm.data.documents import drawing_document
from mllm.data.packing import pack
from mllm.drawing.public_model import UnifiedForConditionalGeneration
from mllm.model import attention
from mllm.model.attention import choose_attention
from mllm.model.configuration_unified import UnifiedConfig
from mllm.model.segments import Segments, visibility
from tests.mllm.tiny import TEXT_CONFIG, flat, make_model


def hidden_states(model, batch):
    names = ("input_ids", "position_ids", "segments", "attention_mask")
    with torch.no_grad():
        return model(**{k: batch[k] for k in names if k in batch}).last_hidden_state


def flash_on_a_cpu(
    query, key, value, starts, key_starts, longest, _, *, scale, window_size, enable_gqa
):
    """What FlashAttention's kernel computes of documents laid end to end, (tokens, heads, D)."""
    assert torch.equal(starts, key_starts) and starts.dtype == torch.int32
    assert longest == starts.diff().max() and window_size == (-1, 0)
    outputs = []
    for first, last in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        q, k, v = (part[first:last].transpose(0, 1)[None] for part in (query, key, value))
        output = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scale, enable_gqa=enable_gqa
        )
        outputs.append(output[0].transpose(0, 1))
    return torch.cat(outputs)


@pytest.fixture(params=["sdpa", "flex", "flash"])
def way(request, monkeypatch):
    """Each way to attend; of FlashAttention all but its kernel, which needs a GPU."""
    monkeypatch.setattr(attention, "varlen_attn", flash_on_a_cpu)
    return request.param


def paths(document):
    """Indices of prefix + suffix, for each suffix; of the prefix alone where there is none."""
    for suffix in (
        range(1, max(flat(document).suffixes) + 1) if any(flat(document).suffixes) else [0]
    ):
        yield [i for i, b in enumerate(flat(document).suffixes) if b in (0, suffix)]


def test_a_packed_document_is_the_document_alone(model, chat, documents, way):
    if way == "flash":  # it knows no shared prefixes
        documents = [drawing_document(chat, "a red bar", [40 + i] * 4) for i in range(3)]
    model = copy.deepcopy(model)
    choose_attention(model.language_model.get_decoder(), way)
    batch = pack([documents[:2], documents[2:]], 128, pad_token_id=0)
    packed = hidden_states(model, batch)
    del batch["segments"]
    open_batch = batch | {"attention_mask": torch.ones(2, 1, 128, 128, dtype=torch.bool).tril()}
    leaking = hidden_states(model, open_batch)

    leaks = []
    for row, start, document in ((0, 0, documents[0]), (0, len(documents[0]), documents[1]),
                                 (1, 0, documents[2])):  # fmt: skip
        for path in paths(document):
            ids = torch.tensor([[flat(document).token_ids[i] for i in path]])
            with torch.no_grad():
                alone = model(ids).last_hidden_state[0]
            place = torch.tensor(path) + start
            assert (packed[row, place] - alone).abs().max() < 1e-5
            leaks.append((leaking[row, place] - alone).abs().max().item())
    # Not vacuous: all but a row's first path differ once the mask lets them look around.
    assert sum(leak > 1e-2 for leak in leaks) >= len(leaks) - 2, leaks
    assert sum(leak > 1e-2 for leak in leaks) >= 1


@pytest.mark.parametrize("way", ["sdpa", "flex"])
@pytest.mark.parametrize("model_type", ["mistral", "gemma3_text"])
def test_a_sliding_window_slides_within_the_document(world, documents, model_type, way):
    """Packed, alone and as transformers attends: the last tokens see a few before them only."""
    plain = make_model(world)
    fields = TEXT_CONFIG | {"head_dim": 16, "sliding_window": 6}
    text = AutoConfig.for_model(**fields | {"model_type": model_type}, vocab_size=320)
    model = UnifiedForConditionalGeneration(
        UnifiedConfig(
            text_config=text.to_dict() | {"vocab_size": plain.config.text_config.vocab_size},
            image_tokenizer_config=plain.config.image_tokenizer_config.to_dict(),
        )
    ).eval()
    choose_attention(model.language_model.get_decoder(), way)
    batch = pack([documents[:2], documents[2:]], 128, pad_token_id=0)
    packed = hidden_states(model, batch)
    for path in paths(documents[0]):
        ids = torch.tensor([[flat(documents[0]).token_ids[i] for i in path]])
        with torch.no_grad():
            alone = model(ids).last_hidden_state[0]
        assert (packed[0, torch.tensor(path)] - alone).abs().max() < 1e-5
    wide = copy.deepcopy(model)
    for layer in wide.language_model.get_decoder().layers:
        layer.self_attn.sliding_window = layer.self_attn.config.sliding_window = None
    assert (hidden_states(wide, batch) - packed)[0, : len(documents[0])].abs().max() > 1e-3


def test_gradients_are_those_of_one_dense_mask(model, documents):
    batch = pack([documents[:2], documents[2:]], 128, pad_token_id=0)
    dense = copy.deepcopy(model)
    masks = []
    for row in (documents[:2], documents[2:]):
        numbers = [n for n, document in enumerate(row) for _ in range(len(document))]
        suffixes = [suffix for document in row for suffix in flat(document).suffixes]
        fill = 128 - len(numbers)
        numbers, suffixes = numbers + [len(row)] * fill, suffixes + [0] * fill
        masks.append(visibility(torch.tensor([numbers]), torch.tensor([suffixes])))
    plain = {name: value for name, value in batch.items() if name != "segments"}
    plain["attention_mask"] = torch.cat(masks).unsqueeze(1)
    model = copy.deepcopy(model)
    losses = [model(**batch).loss, dense(**plain).loss]
    for loss in losses:
        loss.backward()
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-6)
    for (name, a), b in zip(model.named_parameters(), dense.parameters(), strict=True):
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, atol=1e-4, rtol=1e-5, msg=name)


@pytest.mark.gpu
def test_flash_attention_itself_is_sdpa():
    generator = torch.Generator("cuda").manual_seed(0)
    shapes = ((2, 4, 32, 64), (2, 2, 32, 64), (2, 2, 32, 64))
    q, k, v = (
        torch.randn(shape, device="cuda", dtype=torch.bfloat16, generator=generator)
        for shape in shapes
    )
    segments = Segments([[20, 12], [32]], [False, False], None)
    module = torch.nn.Module()
    wide = (q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1))
    wanted = attention.WAYS["sdpa"](module, *wide, segments, dropout=0.0, scaling=None)
    for way in ("flex", "flash"):
        got = attention.WAYS[way](module, q, k, v, segments)
        torch.testing.assert_close(got, wanted, atol=2e-2, rtol=2e-2)
