import copy

import pytest
import torch
from transformers import AutoConfig

from mllm.data.documents import Document, drawing_document, question_document
from mllm.data.packing import pack, plan_sequences
from mllm.drawing.public_model import UnifiedForConditionalGeneration
from mllm.model import attention
from mllm.model.attention import choose_attention
from mllm.model.configuration_unified import UnifiedConfig
from mllm.model.segments import Segments, visibility
from tests.mllm.tiny import TEXT_CONFIG, flat, make_model

QUESTIONS = [("what color is it?", "red"), ("what shape is it?", "bar"), ("is it blue?", "no")]


@pytest.fixture
def documents(chat, hierarchical_model):
    offset = hierarchical_model.vocabulary.offset
    codes = [[offset + 3 * i + j for j in range(4)] for i in range(3)]
    return [
        question_document(chat, codes[0], QUESTIONS),
        drawing_document(chat, "a red bar", codes[1]),
        question_document(chat, codes[2], QUESTIONS[:2]),
    ]


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


def test_without_packing_sequences_are_as_long_as_their_longest(documents):
    batch = pack([[document] for document in documents], None, 0)
    longest = max(map(len, documents))
    assert longest <= batch["input_ids"].shape[1] < longest + 8
    assert batch["segments"].num_tokens == sum(map(len, documents))


def test_padding_contributes_nothing(model, documents):
    short = pack([documents[:1]], len(documents[0]), 0)
    long = pack([documents[:1]], 128, 0)
    with torch.no_grad():
        first, second = model(**short), model(**long)
    assert first.loss.item() == pytest.approx(second.loss.item(), abs=1e-5)
    for name in ("num_text_labels", "num_image_labels"):
        assert first[name] == second[name]
    other_pad = copy.deepcopy(long)
    other_pad["input_ids"][:, len(documents[0]) :] = 7
    with torch.no_grad():
        assert torch.equal(model(**other_pad).loss, second.loss)


def test_labels_never_cross_documents(documents):
    batch = pack([documents], 128, 0)
    labels, positions = batch["labels"][0], batch["position_ids"][0]
    lengths = [len(document) for document in documents]
    masks = [batch["segments"].mask(0, sum(lengths[:i]), n, None) for i, n in enumerate(lengths)]
    visible = torch.block_diag(
        *(torch.ones(n, n).tril() if mask is None else mask[0, 0]
          for mask, n in zip(masks, lengths, strict=True))
    )  # fmt: skip
    places = (labels != -100).nonzero().flatten()
    assert len(places) > 10
    for place in places.tolist():
        # A label is predicted from the token before it: of the same document and path.
        assert positions[place] == positions[place - 1] + 1
        assert visible[place, place - 1]
    starts = (torch.tensor([len(d) for d in documents]).cumsum(0)[:-1]).tolist()
    assert all(labels[start] == -100 for start in [0, *starts])


def test_the_worked_example_of_visibility():
    documents = torch.tensor([[0, 0, 0, 0, 1, 1]])
    suffixes = torch.tensor([[0, 1, 1, 2, 0, 0]])
    assert visibility(documents, suffixes)[0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 1, 1],
    ]


@pytest.mark.parametrize("num_open", [1, 4, 16])
def test_every_document_is_in_exactly_one_sequence(num_open):
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 65, (500,), generator=generator).tolist()
    sequences = list(plan_sequences(lengths, 64, num_open))
    assert sorted(number for numbers in sequences for number in numbers) == list(range(500))
    assert all(sum(lengths[number] for number in numbers) <= 64 for numbers in sequences)


def test_best_fit_leaves_little_padding():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 33, (2000,), generator=generator).tolist()
    sequences = list(plan_sequences(lengths, 64))
    assert 1 - sum(lengths) / (64 * len(sequences)) < 0.03  # measured 0.006


def test_questions_that_do_not_fit_are_left_out(chat, hierarchical_model):
    codes = [hierarchical_model.vocabulary.offset] * 4
    whole = question_document(chat, codes, QUESTIONS)
    cut = question_document(chat, codes, QUESTIONS, max_length=len(whole) - 1)
    assert len(cut) < len(whole)
    assert sorted(set(flat(cut).suffixes)) == [0, 1, 2]
    assert flat(cut).token_ids == flat(whole).token_ids[: len(cut)]


def test_document_columns_are_parallel():
    document = Document()
    assert document.add([5, 6], position=0) == 2
    assert document.add([7], position=2, weight=0.5, suffix=1) == 3
    assert document.columns() == {
        "input_ids": [5, 6, 7], "labels": [-100, -100, 7], "label_weights": [0, 0, 0.5],
        "position_ids": [0, 1, 2], "suffixes": [0, 0, 1],
    }  # fmt: skip
    assert len(document) == 3
