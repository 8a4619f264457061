"""Codebooks that move by averages, and by gradient below."""

import pytest
import torch

from tokenizer.codebooks import kmeans as codebook_kmeans
from tokenizer.codebooks.settings import CodebookSettings
from tokenizer.codebooks.updater import CodebookUpdater
from tokenizer.model.codebook import GroupedCodebook

G, C, D = 3, 4, 5
NEVER = 0.0


def make(metric="euclidean", num_groups=G, num_codes=C, seed=0, **settings):
    torch.manual_seed(seed)
    codebook = GroupedCodebook(num_groups, num_codes, D, metric)
    return codebook, CodebookUpdater(codebook, CodebookSettings(**settings))


def batch(num_vectors=50, num_groups=G, seed=1):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(num_vectors, D, generator=generator)
    return vectors, torch.randint(num_groups, (num_vectors,), generator=generator)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_updates_equal_a_float64_reference(metric):
    codebook, ema = make(metric, decay=0.9, restart_below=NEVER)
    counts, sums = torch.ones(G, C).double(), codebook.codes.double()
    for step in range(60):
        vectors, groups = batch(seed=step)
        codes = codebook.nearest(codebook.normalize(vectors), groups)
        ema.update(vectors, codes, groups)
        normalized = codebook.normalize(vectors).double()
        for group in range(G):
            for code in range(C):
                mine = normalized[(groups == group) & (codes == code)]
                counts[group, code] = 0.9 * counts[group, code] + 0.1 * len(mine)
                sums[group, code] = 0.9 * sums[group, code] + 0.1 * mine.sum(0)
    expected = sums / counts.unsqueeze(-1)
    if metric == "cosine":
        expected = expected / expected.norm(dim=-1, keepdim=True)
    # Measured: 2e-7.
    assert torch.allclose(codebook.codes.double(), expected, atol=2e-6)
    assert int(ema.num_updates) == 60


def test_codes_of_a_cosine_codebook_stay_on_the_unit_sphere():
    codebook, ema = make("cosine")
    for step in range(3):
        vectors, groups = batch(seed=step)
        ema.update(vectors * 7, codebook.nearest(codebook.normalize(vectors), groups), groups)
    assert torch.allclose(codebook.codes.norm(dim=-1), torch.ones(G, C), atol=1e-6)


def test_a_restarted_code_lies_on_a_vector_of_its_own_group_with_fresh_statistics():
    codebook, ema = make(restart_below=0.5)
    vectors, groups = batch()
    ema.counts[1, 2] = 0.01
    ema.sums[1, 2] = 1e6  # old sums, which would throw the code away again
    codes = torch.zeros(len(vectors), dtype=torch.int64)  # nobody chooses code 2
    assert ema.update(vectors, codes, groups) >= 1
    code = codebook.codes[1, 2]
    assert (vectors[groups == 1] == code).all(-1).any()
    assert ema.counts[1, 2] == 1
    assert torch.equal(ema.sums[1, 2], code)


def test_a_restarted_code_survives_the_next_update():
    codebook, ema = make(decay=0.9, restart_below=0.05)
    vectors, groups = batch()
    ema.counts[1, 2] = 0.01
    nobody = torch.zeros(len(vectors), dtype=torch.int64)
    ema.update(vectors, nobody, groups)
    code = codebook.codes[1, 2].clone()
    ema.update(vectors, nobody, groups)
    assert torch.allclose(codebook.codes[1, 2], code, atol=1e-6)


def test_a_restarted_code_stays_on_its_vector_while_nobody_chooses_it_until_it_counts_as_dead():
    codebook, ema = make(decay=0.9, restart_below=0.05)
    vectors, groups = batch()
    ema.counts[1, 2], ema.sums[1, 2] = 0.01, 1e6
    nobody = torch.zeros(len(vectors), dtype=torch.int64)
    ema.update(vectors, nobody, groups)
    code = codebook.codes[1, 2].clone()
    # 0.9 ** 28 is the last power above 0.05.
    for step in range(28):
        later, _ = batch(seed=10 + step)
        ema.update(later, nobody, groups)
        assert torch.allclose(codebook.codes[1, 2], code, atol=1e-5)
    ema.update(later, nobody, groups)
    assert not torch.allclose(codebook.codes[1, 2], code, atol=1e-2)


def test_a_restarted_code_follows_the_vectors_that_choose_it_and_no_older_ones():
    codebook, ema = make(decay=0.9, restart_below=0.05)
    vectors, groups = batch()
    ema.counts[1, 2], ema.sums[1, 2] = 0.01, 1e6
    ema.update(vectors, torch.zeros(len(vectors), dtype=torch.int64), groups)
    code = codebook.codes[1, 2].clone()
    target = torch.full((10, D), 3.0)
    ema.update(target, torch.full((10,), 2), torch.ones(10, dtype=torch.int64))
    # One hit of the start against ten: (0.9 · 1 · code + 0.1 · 10 · target) / (0.9 + 1).
    assert torch.allclose(codebook.codes[1, 2], (0.9 * code + 3.0) / 1.9, atol=1e-6)


def test_candidates_for_restart_are_bounded_and_still_of_the_own_group(monkeypatch):
    monkeypatch.setattr(codebook_kmeans, "MAX_CANDIDATES", 20)
    codebook, ema = make(num_codes=16, restart_below=0.5)
    ema.counts.zero_()
    vectors, groups = batch(200)
    assert 0 < ema.update(vectors, torch.zeros(200, dtype=torch.int64), groups) <= 20
    restarted = (ema.counts == 1).nonzero()
    for group, code in restarted:
        mine = vectors[groups == group]
        assert (mine == codebook.codes[group, code]).all(-1).any()


def test_restarts_spread_dead_codes_over_different_vectors():
    codebook, ema = make(num_groups=1, num_codes=8, restart_below=0.5)
    ema.counts.zero_()
    vectors, _ = batch()
    assert ema.update(vectors, torch.zeros(50, dtype=torch.int64)) == 7
    assert len(codebook.codes[0].unique(dim=0)) == 8


def test_without_dead_codes_nothing_is_restarted():
    codebook, ema = make(restart_below=0.05)
    vectors, groups = batch()
    assert ema.update(vectors, codebook.nearest(vectors, groups), groups) == 0


def test_the_kmeans_start_finds_every_one_of_well_separated_clusters():
    codebook, ema = make(num_groups=1, num_codes=4, seed=3)
    generator = torch.Generator().manual_seed(4)
    centres = torch.eye(D)[:4] * 20
    vectors = centres.repeat_interleave(100, 0) + torch.randn(400, D, generator=generator) * 0.1
    ema.start(vectors)
    codes = codebook.nearest(vectors)
    error = (codebook.lookup(codes) - vectors).square().sum(-1).mean()
    # Every vector has a code at its own cluster; a missed cluster would cost about 800 / 4.
    assert error < 1
    assert len(codes.unique()) == 4


def test_the_kmeans_start_puts_the_codes_of_each_group_on_its_own_data():
    codebook, ema = make("cosine")
    vectors, groups = batch(300)
    vectors += torch.eye(D)[groups] * 30  # groups lie far apart
    ema.start(vectors, groups)
    assert torch.equal(codebook.codes.argmax(-1), torch.arange(G).unsqueeze(1).expand(G, C))


def test_sub_codebooks_without_data_are_left_as_they_are():
    codebook, ema = make(restart_below=0.05, decay=0.5)
    before = codebook.codes[1].clone()
    vectors, groups = batch()
    groups[groups == 1] = 0
    ema.start(vectors, groups)
    assert torch.allclose(codebook.codes[1], before, atol=1e-6)
    for _ in range(20):  # long enough for the counts of an unused code to sink below any threshold
        ema.update(vectors, codebook.nearest(vectors, groups), groups)
    assert torch.allclose(codebook.codes[1], before, atol=1e-5)
    assert torch.isfinite(codebook.codes).all()


def test_the_same_seed_gives_the_same_codebook():
    results = []
    for _ in range(2):
        codebook, ema = make(seed=5, restart_below=0.9)
        vectors, groups = batch()
        ema.start(vectors, groups)
        ema.update(vectors, codebook.nearest(vectors, groups), groups)
        results.append(codebook.codes.clone())
    assert torch.equal(*results)


def test_statistics_are_saved_with_the_updater_and_codes_with_the_codebook():
    codebook, ema = make()
    assert set(ema.state_dict()) == {"counts", "sums", "num_updates"}
    assert set(codebook.state_dict()) == {"codes"}


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_gradients_reach_the_chosen_codes_and_no_other(metric):
    codebook, _ = make(metric, update="gradient")
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
    codebook, _ = make(update="gradient")
    vectors, groups = batch()
    codebook(vectors.requires_grad_(), groups).vectors.square().sum().backward()
    assert codebook.codes.grad is None
    assert vectors.grad.abs().sum() > 0


def test_descending_the_codebook_loss_leads_to_the_cluster_means():
    codebook, updater = make(update="gradient", num_groups=1)
    generator = torch.Generator().manual_seed(4)
    centres = torch.eye(D)[:C] * 20
    vectors = centres.repeat_interleave(100, 0) + torch.randn(400, D, generator=generator)
    updater.start(vectors)
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
    codebook, updater = make(update="gradient", decay=0.9, restart_below=0.0)
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


def test_a_restarted_code_survives_the_next_steps_of_adam():
    codebook, updater = make(update="gradient", decay=0.9, restart_below=0.05)
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
    while updater.counts[1, 2] != 1:  # until it is restarted
        step(hits_code_2=False)
    restarted = codebook.codes[1, 2].detach().clone()
    assert not torch.equal(restarted, alive)
    assert (vectors[groups == 1] == restarted).all(-1).any()
    for _ in range(10):
        step(hits_code_2=False)
    # Adam's moments of the code have faded by then: one step was 0.1.
    # Measured: 0.0038.
    assert (codebook.codes[1, 2] - restarted).abs().max() < 0.01


def test_an_updater_by_gradient_saves_no_sums():
    codebook, updater = make(update="gradient")
    assert set(updater.state_dict()) == {"counts", "num_updates"}
    assert set(codebook.state_dict()) == {"codes"}
    assert codebook.codes.requires_grad
