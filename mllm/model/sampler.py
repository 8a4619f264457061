"""How codes are drawn from their scores: temperature, cuts, and the strength of guidance.

Shapes: B rows, C codes of a level, N image positions.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

# Scores divided by less would overflow; the best code takes all the probability long before.
COLDEST = 1e-30


@dataclass(frozen=True)
class Sampler:
    """How codes are drawn from their scores.

    The `pixel_` settings are those of the second level where they should differ from the first.
    """

    guidance_scale: float = 3.0
    """s; 1 draws from the conditional model alone, at half the cost."""
    guidance_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the scale goes from 1 at the first position to s at the last; constant: s everywhere."""
    temperature: float = 1.0
    """Divides the scores; 0 takes the best code."""
    pixel_temperature: float | None = None
    """The same for pixel codes."""
    top_k: int = 0
    """Keep the k best codes of a level; 0 keeps all."""
    pixel_top_k: int | None = None
    """The same for pixel codes."""
    top_p: float = 1.0
    """Keep the fewest codes of a level whose probabilities sum to p."""
    pixel_top_p: float | None = None
    """The same for pixel codes."""
    min_p: float = 0.0
    """Keep the codes at least this fraction as probable as the best one."""
    pixel_min_p: float | None = None
    """The same for pixel codes."""
    num_candidates: int = 1
    """Drawings made for each one that is given; see `mllm.drawing.best_of`."""

    def choose(self, scores: Tensor, uniform: Tensor) -> Tensor:
        """Draw one code a row.

        Args:
            scores: (B, C) unnormalised log-probabilities.
            uniform: (B,) of `noise`: at most 1 - 2^-24. The only randomness.

        Returns:
            (B,) int64 in [0, C).
        """
        num_codes = scores.shape[-1]
        if self.temperature < COLDEST or self.top_k == 1 or self.top_p <= 0 or num_codes == 1:
            return scores.argmax(-1)
        if self.temperature != 1:
            scores = scores / self.temperature
        index = None
        if self.top_p < 1 or 0 < self.top_k < num_codes:
            # Every cut keeps a first part of the codes in this order.
            scores, index = scores.sort(dim=-1, descending=True, stable=True)
        probabilities = scores.softmax(-1, dtype=torch.float64)
        keep = None
        if self.top_p < 1:
            keep = probabilities.cumsum(-1) - probabilities < self.top_p
        if 0 < self.top_k < num_codes:
            first = torch.arange(num_codes, device=scores.device) < self.top_k
            keep = first if keep is None else keep & first
        if self.min_p > 0:
            best = probabilities.amax(-1, keepdim=True)
            likely = probabilities >= min(self.min_p, 1.0) * best
            keep = likely if keep is None else keep & likely
        kept = probabilities if keep is None else probabilities * keep
        cumulative = kept.cumsum(-1)
        # The noise is at most 1 - 2^-24, so a threshold is below the total even in its last bit.
        threshold = uniform.unsqueeze(-1) * cumulative[:, -1:]
        # Scores that are no numbers (guidance may overflow) are below nothing: still one of them.
        place = torch.searchsorted(cumulative, threshold, right=True).clamp_max(num_codes - 1)
        return place.squeeze(-1) if index is None else index.gather(-1, place).squeeze(-1)

    def for_pixels(self) -> "Sampler":
        """How pixel codes are drawn."""
        own = {
            name: getattr(self, f"pixel_{name}")
            for name in ("temperature", "top_k", "top_p", "min_p")
        }
        return replace(self, **{name: value for name, value in own.items() if value is not None})

    @property
    def guided(self) -> bool:
        """Whether the model without the prompt has a say at all."""
        return self.guidance_scale != 1

    def scales(self, num_positions: int) -> Tensor:
        """(N,) guidance scale of each image position.

        `linear` and `cosine` rise from 1 to s: what the first codes decide, the layout, is left to
        the conditional model, and the later ones are held to the prompt.
        """
        if self.guidance_schedule == "constant":
            return torch.full((num_positions,), float(self.guidance_scale))
        progress = torch.linspace(0, 1, num_positions)
        if self.guidance_schedule == "cosine":
            progress = (1 - torch.cos(math.pi * progress)) / 2
        return 1 + (self.guidance_scale - 1) * progress


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
