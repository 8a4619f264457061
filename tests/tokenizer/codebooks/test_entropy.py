import math

import pytest
import torch

from tokenizer.codebooks import entropy as codebook_entropy
from tokenizer.codebooks.entropy import entropy_loss
from tokenizer.model.codebook import GroupedCodebook

G, C, D, NUM_VECTORS = 4, 5, 6, 40


def make(metric="euclidean", num_groups=G, num_codes=C):
    torch.manual_seed(0)
    codebook = GroupedCodebook(num_groups, num_codes, D, metric)
    codebook.codes.requires_grad_()
    return codebook


def batch(codebook, used=G):
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(NUM_VECTORS, D, generator=generator)
    groups = torch.randint(used, (NUM_VECTORS,), generator=generator)
    return codebook.normalize(vectors), groups % len(codebook.codes)


def reference(codebook, vectors, groups, temperature):
    """The formula of the module, one vector at a time, in float64."""
    codes = codebook.codes.double()
    if codebook.metric == "cosine":
        codes = codes / codes.norm(dim=-1, keepdim=True)
    within, over = 0.0, 0.0
    for group in groups.unique():
        mine = []
        for vector in vectors.double()[groups == group]:
            p = (-(vector - codes[group]).square().sum(-1) / temperature).softmax(0)
            within = within - (p * p.log()).sum()
            mine.append(p)
        mean = torch.stack(mine).mean(0)
        over = over - len(mine) * (mean * mean.log()).sum()
    return (within - over) / len(vectors)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("num_groups", [1, G])
@pytest.mark.parametrize("limit", [None, 70])
def test_value_and_gradients_equal_a_float64_reference(metric, num_groups, limit, monkeypatch):
    if limit:  # several chunks
        monkeypatch.setattr(codebook_entropy, "MAX_SCORES", limit)
    codebook = make(metric, num_groups)
    vectors, groups = batch(codebook)
    gradients = []
    for loss in (entropy_loss, reference):
        inputs = vectors.clone().requires_grad_()
        codebook.codes.grad = None
        value = loss(codebook, inputs, groups, 0.7)
        value.backward()
        gradients.append((value.double(), inputs.grad.double(), codebook.codes.grad.double()))
    for ours, expected in zip(*gradients, strict=True):
        # Measured: 2e-7.
        assert torch.allclose(ours, expected, atol=2e-6)
        assert expected.abs().max() > 1e-3


def test_none_is_one_group():
    codebook = make(num_groups=1)
    vectors, _ = batch(codebook)
    zeros = torch.zeros(NUM_VECTORS, dtype=torch.int64)
    assert torch.equal(entropy_loss(codebook, vectors), entropy_loss(codebook, vectors, zeros))


def test_vectors_spread_evenly_over_the_codes_of_their_group_reach_the_lowest_value():
    codebook = make()
    vectors = codebook.codes.detach().flatten(0, 1)
    groups = torch.arange(G).repeat_interleave(C)
    lowest = entropy_loss(codebook, vectors, groups, 1e-3)
    assert float(lowest.detach()) == pytest.approx(-math.log(C), abs=1e-5)


def test_vectors_that_all_take_one_code_have_value_zero():
    codebook = make()
    vectors = codebook.codes.detach()[:, 0]
    loss = entropy_loss(codebook, vectors.repeat(3, 1), torch.arange(G).repeat(3), 1e-3)
    assert float(loss.detach()) == pytest.approx(0, abs=1e-5)


def test_gradients_reach_no_group_that_no_vector_is_in():
    codebook = make()
    vectors, groups = batch(codebook, used=2)
    entropy_loss(codebook, vectors, groups, 1.0).backward()
    touched = codebook.codes.grad.abs().sum((1, 2)) > 0
    assert touched.tolist() == [True, True, False, False]


def test_gradients_stay_finite_where_probabilities_underflow():
    codebook = make("cosine", 1, 64)
    vectors, _ = batch(codebook)
    inputs = vectors.requires_grad_()
    entropy_loss(codebook, inputs, None, 1e-4).backward()
    assert torch.isfinite(inputs.grad).all()
    assert torch.isfinite(codebook.codes.grad).all()


def test_descending_the_loss_spreads_vectors_over_codes():
    codebook = make("cosine", 1, 16)
    codebook.codes.requires_grad_(False)
    # All near one direction: few codes are hit at the start.
    generator = torch.Generator().manual_seed(2)
    inputs = torch.ones(128, D) + 0.3 * torch.randn(128, D, generator=generator)
    inputs.requires_grad_()
    before = codebook(inputs).codes.unique().numel()
    optimizer = torch.optim.Adam([inputs], lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        entropy_loss(codebook, codebook.normalize(inputs), None, 0.2).backward()
        optimizer.step()
    assert codebook(inputs).codes.unique().numel() >= before + 5
