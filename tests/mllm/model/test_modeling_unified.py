import copy

import pytest
import torch
import torch.nn.functional as F

from mllm.data.documents import drawing_document, question_document
from mllm.data.packing import pack
from tests.mllm.tiny import NUM_PIXEL, NUM_SEMANTIC, make_model

K, M = NUM_SEMANTIC, NUM_PIXEL


@pytest.fixture
def rows(chat, hierarchical_model):
    """Eight rows of different lengths and tasks."""
    offset = hierarchical_model.vocabulary.offset
    generator = torch.Generator().manual_seed(0)
    made = []
    for number in range(8):
        codes = [torch.randint(offset, offset + K * M, (4,), generator=generator).tolist()
                 for _ in range(2)]  # fmt: skip
        made.append([drawing_document(chat, "a red bar"[:number], codes[0], 4.0)])
        if number % 2:
            made[-1].append(
                question_document(chat, codes[1], [("is it red?", "yes")] * number, 1.0)
            )
    return made


def log_likelihoods(model, hidden):
    """Log p of each of the K·M codes, (n, K·M), through the scores that drawing uses."""
    head, n = model.image_head, len(hidden)
    semantic = head.semantic_scores(hidden).log_softmax(-1)
    pixel = torch.stack(
        [
            head.pixel_scores(hidden, torch.full((n,), i), model.image_tokenizer).log_softmax(-1)
            for i in range(K)
        ],
        dim=1,
    )
    return (semantic.unsqueeze(-1) + pixel).flatten(1)


@torch.no_grad()
def test_likelihoods_of_all_codes_sum_to_one(model):
    hidden = torch.randn(6, 32, generator=torch.Generator().manual_seed(0))
    totals = torch.zeros(6)
    for code in range(K * M):
        codes = torch.full((6,), code)
        _, semantic, pixel = model.image_head.losses(hidden, codes, model.image_tokenizer)
        totals += (-(semantic + pixel)).exp()
    torch.testing.assert_close(totals, torch.ones(6), atol=1e-5, rtol=0)


@torch.no_grad()
def test_losses_are_those_of_the_distribution_that_draws(model):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(40, 32, generator=generator)
    codes = torch.randint(K * M, (40,), generator=generator)
    _, semantic, pixel = model.image_head.losses(hidden, codes, model.image_tokenizer)
    expected = -log_likelihoods(model, hidden).gather(1, codes.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(semantic + pixel, expected, atol=1e-5, rtol=1e-5)
    by_level = -model.image_head.semantic_scores(hidden).log_softmax(-1)
    torch.testing.assert_close(semantic, by_level.gather(1, (codes // M)[:, None])[:, 0])


@torch.no_grad()
def test_the_flat_head_is_plain_cross_entropy(flat_model):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(40, 32, generator=generator)
    codes = torch.randint(K * M, (40,), generator=generator)
    total, semantic, pixel = flat_model.image_head.losses(hidden, codes, flat_model.image_tokenizer)
    expected = F.cross_entropy(flat_model.image_head.rows(hidden), codes, reduction="none")
    torch.testing.assert_close(semantic + pixel, expected, atol=1e-5, rtol=1e-5)
    assert total.item() == pytest.approx(expected.sum().item(), rel=1e-6)


def test_a_pixel_loss_touches_only_the_bias_of_its_own_sub_codebook(world):
    model = make_model(world)
    hidden = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    codes = torch.tensor([1 * M + 2, 1 * M, 3 * M + 1])
    total, _, _ = model.image_head.losses(hidden, codes, model.image_tokenizer)
    total.backward()
    gradient = model.image_head.pixel_bias.grad
    touched = gradient.abs().sum(1) > 0
    assert touched.tolist() == [False, True, False, True, False]
    assert all(p.grad is None for p in model.image_tokenizer.parameters())


@torch.no_grad()
def test_the_loss_is_that_of_a_hand_computation(model, rows):
    batch = pack(rows[:4], 64, 0)
    output = model(**batch)
    inputs = {k: batch[k] for k in ("input_ids", "position_ids", "segments")}
    hidden = model(**inputs).last_hidden_state
    text_scores = model.get_output_embeddings()(hidden).log_softmax(-1)
    offset = model.vocabulary.offset
    total, parts = 0.0, {"text": 0.0, "image": 0.0}
    for row, place in (batch["labels"] != -100).nonzero().tolist():
        label, weight = batch["labels"][row, place].item(), batch["label_weights"][row, place]
        before = hidden[row, place - 1 : place]
        if label < offset:
            value = -text_scores[row, place - 1, label]
            parts["text"] += value.item()
        else:
            value = -log_likelihoods(model, before)[0, label - offset]
            parts["image"] += value.item()
        total += (weight * value).item()
    assert output.loss.item() == pytest.approx(total / 4, rel=1e-5)
    assert output.text_loss.item() == pytest.approx(parts["text"], rel=1e-5)
    image = output.semantic_loss + output.pixel_loss
    assert image.item() == pytest.approx(parts["image"], rel=1e-5)


@torch.no_grad()
def test_without_weights_each_row_counts_once(model, rows):
    batch = pack(rows[:2], 64, 0)
    equal = batch.copy()
    del equal["label_weights"]
    num_labels = (batch["labels"] != -100).sum(1, keepdim=True)
    batch["label_weights"] = ((batch["labels"] != -100) / num_labels).float()
    assert model(**equal).loss.item() == pytest.approx(model(**batch).loss.item(), rel=1e-6)


@pytest.mark.parametrize("image_head", ["hierarchical", "flat"])
def test_eight_micro_batches_of_one_are_one_of_eight(world, rows, image_head):
    whole = make_model(world, image_head)
    split = copy.deepcopy(whole)
    loss = whole(**pack(rows, 128, 0)).loss
    loss.backward()
    parts = 0.0
    for row in rows:
        part = split(**pack([row], 128, 0)).loss / 8
        part.backward()
        parts += part.item()
    assert parts == pytest.approx(loss.item(), rel=1e-6)
    for (name, a), b in zip(whole.named_parameters(), split.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None:
            # Measured: 1.9e-6 of gradients up to 5.
            torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-5, msg=name)


@pytest.mark.parametrize("task", ["text", "image", "none"])
def test_a_batch_without_labels_of_a_kind_has_the_loss_of_the_other(world, rows, task):
    model = make_model(world)
    batch = pack(rows[:4], 64, 0)
    both = model(**batch)
    is_image = model.vocabulary.is_image(batch["labels"])
    dropped = {"text": is_image, "image": ~is_image, "none": torch.ones_like(is_image)}[task]
    output = model(**batch | {"labels": batch["labels"].masked_fill(dropped, -100)})
    assert torch.isfinite(output.loss)
    kept = {"text": "text_loss", "image": "semantic_loss"}
    for name, key in kept.items():
        expected = both[key].item() if name == task else 0.0
        assert output[key].item() == pytest.approx(expected, rel=1e-5)
    output.loss.backward()
    # Ranks whose batch lacks a task must still reduce the same parameters.
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


@torch.no_grad()
def test_z_loss_adds_the_squared_log_partition_of_text(world, rows):
    plain, with_z = make_model(world), make_model(world, z_loss_weight=0.1)
    batch = pack(rows[1:2], 64, 0)
    inputs = {k: batch[k] for k in ("input_ids", "position_ids", "segments")}
    log_z = plain.get_output_embeddings()(plain(**inputs).last_hidden_state).logsumexp(-1)
    labels = batch["labels"][:, 1:]
    weights = batch["label_weights"][:, 1:] * (labels < plain.vocabulary.offset)
    expected = plain(**batch).loss + 0.1 * (log_z[:, :-1].square() * weights).sum()
    assert with_z(**batch).loss.item() == pytest.approx(expected.item(), rel=1e-5)
