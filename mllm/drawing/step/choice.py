"""The choice of image codes: from states to scores, guided, and from scores to codes.

Guidance is u + s·(c − u) on the scores of both levels, c with the prompt and u with the negative or
the empty one; with it every image has two rows, c before u.

Shapes: B images, R rows (B, or 2·B with guidance), C codes of a level, N image positions.
"""

import math
from typing import Any

import torch
from torch import Tensor

from mllm.model.modeling_unified import UnifiedModel
from mllm.model.sampler import Sampler

# Scores divided by less would overflow; the best code takes all the probability long before.
LEAST_TEMPERATURE = 1e-30


class CodeChoice:
    """Chooses the next code of each image from the states that predict it.

    `head` is the model's `FlatHead` or `HierarchicalHead`, or what computes the same scores.
    """

    def __init__(self, model: UnifiedModel, head: Any, sampler: Sampler):
        self.head, self.sampler, self.pixel_sampler = head, sampler, sampler.for_pixels()
        self.rows_each = 2 if sampler.guided else 1  # of an image
        self.image_tokenizer = model.image_tokenizer
        self.num_pixel_codes = model.vocabulary.num_pixel_codes
        scales = guidance_scales(sampler, model.config.num_image_positions)
        self.scales = scales.to(model.device)
        greedy = sampler.temperature == 0 == self.pixel_sampler.temperature
        # The best flat code need not belong to the best semantic code.
        self.by_flat_code = greedy and hasattr(head, "flat_scores")

    def __call__(
        self,
        hidden: Tensor,
        uniform: Tensor,
        positions: Tensor,
        kept: Tensor | None,
        semantics_kept: bool = False,
    ) -> Tensor:
        """(B,) flat codes, one for each image.

        Args:
            hidden: (R, D) states.
            uniform: (B, N, 2) noise of both levels.
            positions: (B,) image positions.
            kept: (B, N, 2) codes of both levels that are given, -1 where they are drawn; None
                where no code is given.
            semantics_kept: whether every semantic code is given.
        """
        every = torch.arange(len(positions), device=positions.device)
        uniform = uniform[every, positions]
        scales = self.scales[positions].unsqueeze(-1)
        if kept is not None:
            kept = kept[every, positions]
        if kept is not None and semantics_kept:
            semantic = kept[:, 0].clamp_min(0)
        else:
            if self.by_flat_code:
                flat = self._guide(self.head.flat_scores(hidden), scales.unsqueeze(-1))
                scores = flat.amax(-1)
            else:
                scores = self._guide(self.head.semantic_scores(hidden), scales)
            semantic = choose(self.sampler, scores, uniform[:, 0])
            if kept is not None:
                semantic = torch.where(kept[:, 0] >= 0, kept[:, 0], semantic)
        scores = self.head.pixel_scores(hidden, self.each_row(semantic), self.image_tokenizer)
        pixel = choose(self.pixel_sampler, self._guide(scores, scales), uniform[:, 1])
        if kept is not None:
            pixel = torch.where(kept[:, 1] >= 0, kept[:, 1], pixel)
        return semantic * self.num_pixel_codes + pixel

    def each_row(self, values: Tensor) -> Tensor:
        """(B, ...) → (R, ...)."""
        if not self.sampler.guided:
            return values
        return values.unsqueeze(1).expand(-1, 2, *values.shape[1:]).flatten(0, 1)

    def _guide(self, scores: Tensor, scales: Tensor) -> Tensor:
        """(B, C) scores of (R, C)."""
        if not self.sampler.guided:
            return scores
        return torch.lerp(scores[1::2], scores[0::2], scales)


def choose(sampler: Sampler, scores: Tensor, uniform: Tensor) -> Tensor:
    """Draw one code of each row of scores: (B,) int64 in [0, C).

    Args:
        sampler: temperature and cuts.
        scores: (B, C) unnormalised log-probabilities.
        uniform: (B,) of `noise`: at most 1 - 2^-24. The only randomness.
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
    """(B, N, 2) float64 uniform numbers, each image's from its own seed: the batch does not matter;
    `candidate` says which of the drawings of one seed, from 0."""
    shape = (candidate + 1, num_positions, 2)
    rows = [torch.rand(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack([row[-1] for row in rows]).double()
