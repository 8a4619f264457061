import copy

import pytest
import torch

from mllm.packing import pack, plan_rows, visibility
from mllm.sequences import Document, drawing_document, question_document

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
    inputs = {k: batch[k] for k in ("input_ids", "position_ids", "attention_mask")}
    with torch.no_grad():
        return model(**inputs).last_hidden_state


def paths(document):
    """Indices of stem + branch, for each branch; of the stem alone where there is none."""
    for branch in range(1, max(document.branches) + 1) if any(document.branches) else [0]:
        yield [i for i, b in enumerate(document.branches) if b in (0, branch)]


def test_a_packed_document_is_the_document_alone(model, documents):
    batch = pack([documents[:2], documents[2:]], 128, pad_token_id=0)
    packed = hidden_states(model, batch)
    open_batch = batch | {"attention_mask": torch.ones(2, 1, 128, 128, dtype=torch.bool).tril()}
    leaking = hidden_states(model, open_batch)

    leaks = []
    for row, start, document in ((0, 0, documents[0]), (0, len(documents[0]), documents[1]),
                                 (1, 0, documents[2])):  # fmt: skip
        for path in paths(document):
            ids = torch.tensor([[document.token_ids[i] for i in path]])
            with torch.no_grad():
                alone = model(ids).last_hidden_state[0]
            place = torch.tensor(path) + start
            assert (packed[row, place] - alone).abs().max() < 1e-5
            leaks.append((leaking[row, place] - alone).abs().max().item())
    # Not vacuous: all but a row's first path differ once the mask lets them look around.
    assert sum(leak > 1e-2 for leak in leaks) >= len(leaks) - 2, leaks


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
    visible = batch["attention_mask"][0, 0]
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
    branches = torch.tensor([[0, 1, 1, 2, 0, 0]])
    assert visibility(documents, branches)[0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 1, 1],
    ]


@pytest.mark.parametrize("num_open", [1, 4, 16])
def test_every_document_is_in_exactly_one_row(num_open):
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 65, (500,), generator=generator).tolist()
    rows = list(plan_rows(lengths, 64, num_open))
    assert sorted(number for row in rows for number in row) == list(range(500))
    assert all(sum(lengths[number] for number in row) <= 64 for row in rows)


def test_best_fit_leaves_little_padding():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 33, (2000,), generator=generator).tolist()
    rows = list(plan_rows(lengths, 64))
    assert 1 - sum(lengths) / (64 * len(rows)) < 0.03  # measured 0.006


def test_a_document_longer_than_a_row_is_an_error():
    with pytest.raises(ValueError, match="65 tokens does not fit into rows of 64"):
        list(plan_rows([3, 65], 64))


def test_questions_that_do_not_fit_are_left_out(chat, hierarchical_model):
    codes = [hierarchical_model.vocabulary.offset] * 4
    whole = question_document(chat, codes, QUESTIONS)
    cut = question_document(chat, codes, QUESTIONS, max_length=len(whole) - 1)
    assert len(cut) < len(whole)
    assert sorted(set(cut.branches)) == [0, 1, 2]
    assert cut.token_ids == whole.token_ids[: len(cut)]


def test_document_fields_stay_parallel():
    document = Document()
    assert document.extend([5, 6], branch=0, position=0) == 2
    assert document.extend([7], branch=1, position=2, weight=0.5) == 3
    assert document == Document([5, 6, 7], [-100, -100, 7], [0, 0, 0.5], [0, 0, 1], [0, 1, 2])
