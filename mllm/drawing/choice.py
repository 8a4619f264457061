"""How a code is drawn from its scores.

Shapes: B rows, C codes of a level, N image positions.
"""

import math

import torch
from torch import Tensor

from mllm.model.sampler import Sampler

# Scores divided by less would overflow; the best code takes all the probability long before.
LEAST_TEMPERATURE = 1e-30


def choose(sampler: Sampler, scores: Tensor, uniform: Tensor) -> Tensor:
    """Draw one code a row.

    Args:
        sampler: its temperature and cuts.
        scores: (B, C) unnormalised log-probabilities.
        uniform: (B,) of `noise`: at most 1 - 2^-24. The only randomness.

    Returns:
        (B,) int64 in [0, C).
    """
    num_codes = scores.shape[-1]
    if sampler.temperature < LEAST_TEMPERATURE or sampler.top_k == 1 or num_codes == 1:
        return scores.argmax(-1)
    if sampler.temperature != 1:
        scores = scores / sampler.temperature
    index = None
    if sampler.top_p < 1 or 0 < sampler.top_k < num_codes:
        # Every cut keeps a first part of the codes in this order.
        scores, index = scores.sort(dim=-1, descending=True, stable=True)
    probabilities = scores.softmax(-1, dtype=torch.float64)
    keep = None
    if sampler.top_p < 1:
        keep = probabilities.cumsum(-1) - probabilities < sampler.top_p
    if 0 < sampler.top_k < num_codes:
        first = torch.arange(num_codes, device=scores.device) < sampler.top_k
        keep = first if keep is None else keep & first
    if sampler.min_p > 0:
        likely = probabilities >= sampler.min_p * probabilities.amax(-1, keepdim=True)
        keep = likely if keep is None else keep & likely
    kept = probabilities if keep is None else probabilities * keep
    cumulative = kept.cumsum(-1)
    # The noise is at most 1 - 2^-24, so a threshold is below the total even in its last bit.
    threshold = uniform.unsqueeze(-1) * cumulative[:, -1:]
    # NaN scores (guidance may overflow) compare as below nothing: still choose one of the codes.
    rank = torch.searchsorted(cumulative, threshold, right=True).clamp_max(num_codes - 1)
    return rank.squeeze(-1) if index is None else index.gather(-1, rank).squeeze(-1)


def guidance_scales(sampler: Sampler, num_positions: int) -> Tensor:
    """(N,) guidance scale of each image position.

    `linear` and `cosine` rise from 1 to s: the first codes decide the layout, which is left to the
    conditional model, and the later ones are held to the prompt.
    """
    if sampler.guidance_schedule == "constant":
        return torch.full((num_positions,), float(sampler.guidance_scale))
    progress = torch.linspace(0, 1, num_positions)
    if sampler.guidance_schedule == "cosine":
        progress = (1 - torch.cos(math.pi * progress)) / 2
    return 1 + (sampler.guidance_scale - 1) * progress


def noise(seeds: list[int], num_positions: int, candidate: int = 0) -> Tensor:
    """(B, N, 2) float64 uniform numbers, each image's from its own seed: the batch does not matter.

    Args:
        seeds: B of them.
        num_positions: N.
        candidate: which of the drawings of one seed, from 0.
    """
    shape = (candidate + 1, num_positions, 2)
    rows = [torch.rand(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack([row[-1] for row in rows]).double()
