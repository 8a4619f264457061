import copy

import pytest
import torch
from torch import nn

from mllm.data.documents import drawing_document, question_document
from mllm.data.packing import pack
from mllm.model import loss as loss_module
from mllm.model.loss import weighted_loss
from tests.mllm.tiny import NUM_PIXEL, NUM_SEMANTIC, make_model

WAYS = ["fused", "module"]
N, D, V = 23, 8, 37  # chunks of 5 labels: the last one is not full


class Wrapped(nn.Module):
    """A head that is more than its weight."""

    def __init__(self, base):
        super().__init__()
        self.base = base

    def forward(self, hidden):
        return self.base(hidden)


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(0)
    head = nn.Linear(D, V)
    with torch.no_grad():
        head.weight.normal_(generator=generator)
        head.bias.normal_(generator=generator)
    hidden = (3 * torch.randn(N, D, generator=generator)).requires_grad_()
    labels = torch.randint(V, (N,), generator=generator)
    weights = torch.rand(N, generator=generator)
    weights[::4] = 0
    return head, hidden, labels, weights


def reference(head, hidden, labels):
    """In float64, from all scores at once: losses, log Z, and the leaves that take gradients."""
    leaves = [t.detach().double().requires_grad_() for t in (hidden, head.weight, head.bias)]
    scores = leaves[0] @ leaves[1].T + leaves[2]
    log_z = scores.exp().sum(1).log()
    return log_z - scores[torch.arange(len(labels)), labels], log_z, leaves


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("z_weight", [0.0, 0.1])
def test_chunks_give_values_and_gradients_of_all_scores_at_once(
    monkeypatch, case, way, weighted, z_weight
):
    head, hidden, labels, weights = case
    monkeypatch.setattr(loss_module, "CHUNK_SCORES", 5 * V)
    monkeypatch.setattr(loss_module, "CACHED_SCORES", 2 * V)
    if not weighted:
        weights = torch.ones(N)
    expected, expected_z, leaves = reference(head, hidden, labels)
    wanted = (weights.double() * (expected + z_weight * expected_z**2)).sum()
    (0.5 * wanted).backward()

    used = Wrapped(head) if way == "module" else head
    total, losses = weighted_loss(used, V, hidden, labels, weights, z_weight)
    (0.5 * total).backward()
    assert not losses.requires_grad
    torch.testing.assert_close(total.double(), wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(losses.double(), expected, atol=1e-5, rtol=1e-5)
    for ours, leaf in zip((hidden, head.weight, head.bias), leaves, strict=True):
        assert leaf.grad.abs().max() > 0.1
        torch.testing.assert_close(ours.grad.double(), leaf.grad, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_no_more_labels_are_scored_at_once_than_fit(monkeypatch, case, way):
    head, hidden, labels, weights = case
    used = Wrapped(head) if way == "module" else head
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.shape[-1:] == (V,) and result.ndim == 2:
                largest = max(largest, result.shape[0])
            return result

    def run():
        weighted_loss(used, V, hidden, labels, weights)[0].backward()

    monkeypatch.setattr(loss_module, "CHUNK_SCORES", V * N)
    with Watch():
        run()
    assert largest == N
    monkeypatch.setattr(loss_module, "CHUNK_SCORES", V * 5)
    largest = 0
    with Watch():
        run()
    assert 5 <= largest <= 8  # the transposed weight is (D, V)


@pytest.mark.parametrize("frozen", ["weight", "hidden"])
def test_what_is_frozen_takes_no_gradient(monkeypatch, case, frozen):
    head, hidden, labels, weights = case
    monkeypatch.setattr(loss_module, "CHUNK_SCORES", 5 * V)
    (head.weight if frozen == "weight" else hidden).requires_grad_(False)
    weighted_loss(head, V, hidden, labels, weights)[0].backward()
    assert (head.weight.grad is None) == (frozen == "weight")
    assert (hidden.grad is None) == (frozen == "hidden")


def test_without_gradients_none_are_made(monkeypatch, case):
    head, hidden, labels, weights = case
    monkeypatch.setattr(loss_module, "CHUNK_SCORES", 5 * V)
    with_gradients = weighted_loss(head, V, hidden, labels, weights)
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "zeros_like", None)  # nothing to sum gradients in
        without = weighted_loss(head, V, hidden, labels, weights)
    assert all(torch.equal(a, b) for a, b in zip(with_gradients, without, strict=True))


def test_a_second_backward_is_refused(monkeypatch, case):
    head, hidden, labels, weights = case
    monkeypatch.setattr(loss_module, "CHUNK_SCORES", 5 * V)
    total, _ = weighted_loss(head, V, hidden, labels, weights)
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="call backward once"):
        total.backward()


@pytest.mark.parametrize("way", WAYS)
def test_under_bfloat16_autocast_losses_stay_float32(monkeypatch, case, way):
    head, hidden, labels, weights = case
    used = Wrapped(head) if way == "module" else head
    with torch.autocast("cpu", torch.bfloat16):
        _, whole = weighted_loss(used, V, hidden, labels, weights)
    monkeypatch.setattr(loss_module, "CHUNK_SCORES", 5 * V)
    with torch.autocast("cpu", torch.bfloat16):
        total, losses = weighted_loss(used, V, hidden, labels, weights)
    assert losses.dtype == total.dtype == torch.float32
    torch.testing.assert_close(losses, whole, atol=1e-5, rtol=1e-5)
    expected, _, leaves = reference(head, hidden, labels)
    total.backward()
    (weights * expected).sum().backward()
    for ours, leaf in zip((hidden, head.weight, head.bias), leaves, strict=True):
        # Eight bits of mantissa: measured 0.006 of the largest gradient.
        error = (ours.grad.double() - leaf.grad).abs().max() / leaf.grad.abs().max()
        assert error < 0.03


@pytest.fixture
def batch(chat, hierarchical_model):
    """Three rows of questions and drawings with label weights."""
    offset = hierarchical_model.vocabulary.offset
    generator = torch.Generator().manual_seed(0)
    high = offset + NUM_SEMANTIC * NUM_PIXEL
    codes = torch.randint(offset, high, (3, 4), generator=generator).tolist()
    questions = [("is it red?", "yes"), ("what shape is it?", "bar")]
    documents = [
        question_document(chat, codes[0], questions),
        drawing_document(chat, "a red bar", codes[1], 4.0),
        drawing_document(chat, "", codes[2], 4.0),
    ]
    return pack([[document] for document in documents], 64, 0)


@pytest.mark.parametrize("image_head", ["flat", "hierarchical"])
@pytest.mark.parametrize("z_loss_weight", [0.0, 0.1])
@pytest.mark.parametrize("only", ["both", "text", "image", "none"])
def test_a_model_learns_the_same_from_chunks(
    monkeypatch, world, batch, image_head, z_loss_weight, only
):
    whole = make_model(world, image_head, z_loss_weight=z_loss_weight)
    chunked = copy.deepcopy(whole)
    is_image = whole.vocabulary.is_image(batch["labels"])
    empty = torch.zeros_like(is_image)
    dropped = {"both": empty, "text": is_image, "image": ~is_image, "none": ~empty}[only]
    batch = batch | {"labels": batch["labels"].masked_fill(dropped, -100)}
    expected = whole(**batch)
    expected.loss.backward()
    monkeypatch.setattr(loss_module, "CHUNK_SCORES", 4 * NUM_SEMANTIC)
    got = chunked(**batch)
    got.loss.backward()
    for name in ("loss", "text_loss", "semantic_loss", "pixel_loss"):
        assert got[name].item() == pytest.approx(expected[name].item(), rel=1e-5, abs=1e-5), name
    assert (expected.loss.item() > 0) == (only != "none")
    for (name, a), b in zip(whole.named_parameters(), chunked.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None:
            torch.testing.assert_close(b.grad, a.grad, atol=1e-5, rtol=1e-5, msg=name)
