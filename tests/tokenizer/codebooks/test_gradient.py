import pytest
import torch

from tokenizer.codebooks.gradient import CodebookGradient
from tokenizer.model.codebook import GroupedCodebook

G, C, D = 3, 4, 5


def make(metric="euclidean", num_groups=G, num_codes=C, **settings):
    torch.manual_seed(0)
    codebook = GroupedCodebook(num_groups, num_codes, D, metric)
    return codebook, CodebookGradient(codebook, **settings)


def batch(num_vectors=50, seed=1):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(num_vectors, D, generator=generator)
    return vectors, torch.randint(G, (num_vectors,), generator=generator)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_gradients_reach_the_chosen_codes_and_no_other(metric):
    codebook, _ = make(metric)
    vectors, _ = batch(6)
    groups = torch.tensor([0, 0, 2, 2, 2, 2])
    quantized = codebook(vectors.requires_grad_(), groups)
    # All that a phase may add up: the network's loss through the code vectors, and both own losses.
    loss = quantized.vectors.square().sum()
    (loss + quantized.codebook_loss + quantized.commitment_loss).backward()
    touched = codebook.codes.grad.abs().sum(-1) > 0
    chosen = torch.zeros(G, C, dtype=torch.bool)
    chosen[groups, quantized.codes] = True
    assert torch.equal(touched, chosen)
    assert not chosen[1].any() and not chosen.all()


def test_the_networks_gradient_never_reaches_the_codes():
    codebook, _ = make()
    vectors, groups = batch()
    codebook(vectors.requires_grad_(), groups).vectors.square().sum().backward()
    assert codebook.codes.grad is None
    assert vectors.grad.abs().sum() > 0


def test_descending_the_codebook_loss_leads_to_the_cluster_means():
    codebook, updater = make(num_groups=1)
    generator = torch.Generator().manual_seed(4)
    centres = torch.eye(D)[:C] * 20
    vectors = centres.repeat_interleave(100, 0) + torch.randn(400, D, generator=generator)
    updater.kmeans_start(vectors)
    # The slope is 2 · 100 / (400 · D) of the way to the mean, so each step goes half of it.
    optimizer = torch.optim.SGD([codebook.codes], lr=5.0)
    with torch.no_grad():
        codebook.codes.add_(torch.randn(codebook.codes.shape, generator=generator))
    for _ in range(60):
        optimizer.zero_grad()
        quantized = codebook(vectors)
        quantized.codebook_loss.backward()
        optimizer.step()
        updater.update(vectors, quantized.codes)
    means = torch.stack([vectors[quantized.codes == code].mean(0) for code in range(C)])
    assert len(quantized.codes.unique()) == C
    # Measured: 2e-6.
    assert torch.allclose(codebook.codes[0], means, atol=1e-4)


def test_hits_are_averaged_as_in_a_float64_reference():
    codebook, updater = make(decay=0.9, revive_below=0.0)
    counts = torch.ones(G, C).double()
    for step in range(40):
        vectors, groups = batch(seed=step)
        codes = codebook.nearest(vectors, groups)
        updater.update(vectors, codes, groups)
        hits = torch.zeros(G, C).double()
        for group, code in zip(groups, codes, strict=True):
            hits[group, code] += 1
        counts = 0.9 * counts + 0.1 * hits
    assert torch.allclose(updater.counts.double(), counts, atol=1e-5)


def test_a_revived_code_survives_the_next_steps_of_adam():
    codebook, updater = make(decay=0.9, revive_below=0.05)
    optimizer = torch.optim.AdamW([codebook.codes], lr=0.1, weight_decay=0.0)
    vectors, groups = batch()

    def step(hits_code_2):
        """One step; code 2 of group 1 gets a gradient only where told."""
        codes = torch.zeros(len(vectors), dtype=torch.int64)
        if hits_code_2:
            codes[groups == 1] = 2
        optimizer.zero_grad()
        chosen = codebook.lookup(codes, groups)
        (chosen - vectors).square().mean().backward()
        optimizer.step()
        return updater.update(vectors, codes, groups)

    for _ in range(5):
        step(hits_code_2=True)
    alive = codebook.codes[1, 2].detach().clone()
    while updater.counts[1, 2] != 1:  # until it is revived
        step(hits_code_2=False)
    revived = codebook.codes[1, 2].detach().clone()
    assert not torch.equal(revived, alive)
    assert (vectors[groups == 1] == revived).all(-1).any()
    for _ in range(10):
        step(hits_code_2=False)
    # Adam's moments of the code have faded by then: one step was 0.1.
    # Measured: 0.0038.
    assert (codebook.codes[1, 2] - revived).abs().max() < 0.01


def test_statistics_are_saved_with_the_updater_and_codes_with_the_codebook():
    codebook, updater = make()
    assert set(updater.state_dict()) == {"counts", "num_updates"}
    assert set(codebook.state_dict()) == {"codes"}
    assert codebook.codes.requires_grad
