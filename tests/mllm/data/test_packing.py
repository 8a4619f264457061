import copy

import pytest
import torch

from mllm.data.documents import Document, question_document
from mllm.data.packing import pack, plan_sequences
from tests.mllm.tiny import QUESTIONS, flat


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
