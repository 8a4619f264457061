"""A code is drawn from its scores as temperature and cuts say."""

import pytest
import torch
from scipy.stats import chisquare

from mllm.drawing.step.choice import choose, guidance_scales, noise
from mllm.model.sampler import Sampler


def many(scores, sampler, count=20_000):
    uniform = torch.rand(count, generator=torch.Generator().manual_seed(0))
    chosen = choose(sampler, torch.tensor(scores).expand(count, -1), uniform)
    return torch.bincount(chosen, minlength=len(scores))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_codes_are_drawn_from_their_distribution(temperature):
    scores = [0.3, -1.0, 2.0, 1.9, -3.0, 0.0]
    counts = many(scores, Sampler(temperature=temperature))
    expected = (torch.tensor(scores).double() / temperature).softmax(0) * counts.sum()
    assert chisquare(counts, expected).pvalue > 0.01
    other = (torch.tensor(scores).double() / temperature / 1.2).softmax(0) * counts.sum()
    assert chisquare(counts, other).pvalue < 1e-6  # the test can tell


def test_top_k_keeps_the_best_k_in_their_proportions():
    scores = torch.tensor([0.4, 0.05, 0.3, 0.15, 0.1]).log().tolist()
    counts = many(scores, Sampler(top_k=3))
    assert (counts > 0).tolist() == [True, False, True, True, False]
    expected = torch.tensor([0.4, 0.3, 0.15], dtype=torch.double) / 0.85 * counts.sum()
    assert chisquare(counts[[0, 2, 3]], expected).pvalue > 0.01


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(0.01, [0]), (0.39, [0]), (0.41, [0, 2]), (0.69, [0, 2]), (0.71, [0, 2, 3]), (1.0, range(5))],
)
def test_top_p_keeps_the_fewest_codes_that_reach_p(top_p, kept):
    scores = torch.tensor([0.4, 0.05, 0.3, 0.15, 0.1]).log().tolist()
    counts = many(scores, Sampler(top_p=top_p))
    assert (counts > 0).nonzero().flatten().tolist() == list(kept)


def test_both_cuts_together_keep_what_both_keep():
    scores = torch.tensor([0.4, 0.05, 0.3, 0.15, 0.1]).log().tolist()
    counts = many(scores, Sampler(top_k=2, top_p=0.9))
    assert (counts > 0).nonzero().flatten().tolist() == [0, 2]


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-24])
def test_the_ends_of_the_noise_stay_within_what_is_kept(uniform):
    scores = torch.tensor([[0.0, -1e30, 1.0, -1e30]])
    for sampler in (Sampler(), Sampler(top_k=2), Sampler(top_p=0.7), Sampler(temperature=1e-6)):
        assert choose(sampler, scores, torch.tensor([uniform])).item() in (0, 2)


@pytest.mark.parametrize("temperature", [1e-20, 1e-38, 1e-45, 1e-320])
def test_the_coldest_temperatures_take_the_best_code(temperature):
    scores = torch.tensor([[0.0, 30.0, 31.0, -30.0]] * 2)
    uniform = torch.tensor([0.0, 1 - 2**-24]).double()
    for sampler in (Sampler(temperature=temperature), Sampler(temperature=temperature, top_p=0.9)):
        assert choose(sampler, scores, uniform).tolist() == [2, 2]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_scores_that_are_no_numbers_still_give_a_code(value):
    scores, uniform = torch.full((2, 5), value), torch.tensor([0.0, 0.9]).double()
    for sampler in (Sampler(), Sampler(top_p=0.9), Sampler(top_k=3), Sampler(min_p=0.2)):
        codes = choose(sampler, scores, uniform)
        assert codes.min() >= 0 and codes.max() < 5


def test_noise_belongs_to_the_seed_alone():
    assert torch.equal(noise([3, 9], 4)[1], noise([9], 4)[0])
    assert not torch.equal(noise([3], 4), noise([9], 4))


def test_schedules_rise_from_the_conditional_model_to_the_whole_scale():
    for schedule in ("linear", "cosine"):
        scales = guidance_scales(Sampler(guidance_scale=5.0, guidance_schedule=schedule), 9)
        assert scales[0] == 1 and scales[-1] == 5 and (scales.diff() > 0).all()
    assert (guidance_scales(Sampler(guidance_scale=5.0), 9) == 5).all()
    assert guidance_scales(Sampler(guidance_scale=5.0, guidance_schedule="cosine"), 9)[4] == 3


def test_min_p_and_the_cuts_of_each_level():
    scores = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(4000, -1)
    uniform = torch.rand(4000, generator=torch.Generator().manual_seed(0)).double()
    for min_p, kept in ((0.0, 4), (0.29, 3), (0.31, 2), (0.61, 1), (1.0, 1)):
        assert len(choose(Sampler(min_p=min_p), scores, uniform).unique()) == kept
    both = Sampler(top_k=9, top_p=0.9, min_p=0.1, temperature=0.7)
    assert both.for_pixels() == both
    own = Sampler(top_k=9, pixel_top_k=2, pixel_top_p=0.5, pixel_min_p=0.3, pixel_temperature=2.0)
    pixels = own.for_pixels()
    assert (pixels.top_k, pixels.top_p, pixels.min_p, pixels.temperature) == (2, 0.5, 0.3, 2.0)
