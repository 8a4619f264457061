"""Scores of reconstructions: of each image, and of the set as a whole.

Shapes: B batch, H·W pixels.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eval.feature_networks import FeatureNetwork
from eval.set_distance import (
    KID_NUM_SUBSETS,
    KID_SUBSET_SIZE,
    SetFeatures,
    frechet_distance,
    kernel_distance,
)
from tokenizer.image_quality import image_psnr, image_ssim, to_levels
from tokenizer.rank_group import RankGroup

MS_SSIM_MIN_SIZE = 176
"""Pixels: torchmetrics wants 11 of them, its window, on the last of five scales, a 16th in size."""

UNITS = {"psnr": "PSNR, dB", "ssim": "SSIM", "ms_ssim": "MS-SSIM"}


def image_ms_ssim(levels: Tensor, target: Tensor) -> Tensor:
    """MS-SSIM of each image on five scales, window 11 with sigma 1.5.

    Args:
        levels: (B, 3, H, W) in [0, 255], both sides at least `MS_SSIM_MIN_SIZE`.
        target: the same.

    Returns:
        (B,).
    """
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    return multiscale_structural_similarity_index_measure(
        levels, target, data_range=255.0, reduction="none"
    )


def image_scores(
    images: Tensor, rebuilt: Tensor, distance: Callable[[Tensor, Tensor], Tensor] | None = None
) -> dict[str, list[float]]:
    """Scores of each image as it would be saved.

    Args:
        images: (B, 3, H, W) in [-1, 1].
        rebuilt: the same.
        distance: a perceptual one, see `tokenizer.losses.perceptual.load_distance`.

    Returns:
        `psnr`, `ssim`, `ms_ssim` where the images are large enough, `perceptual` where asked for.
    """
    levels, target = to_levels(rebuilt), to_levels(images)
    scores = {"psnr": image_psnr(levels, target), "ssim": image_ssim(levels, target)}
    if min(images.shape[-2:]) >= MS_SSIM_MIN_SIZE:
        scores["ms_ssim"] = image_ms_ssim(levels, target)
    if distance is not None:
        with torch.no_grad():
            scores["perceptual"] = distance(levels / 127.5 - 1, target / 127.5 - 1).cpu()
    return {name: values.tolist() for name, values in scores.items()}


def mean_with_interval(values: Sequence[float]) -> dict[str, Any]:
    """Mean over images with its 95 % interval by the normal approximation."""
    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return {"value": mean, "interval": None}
    half = 1.96 * float(np.std(values, ddof=1)) / count**0.5
    return {"value": mean, "interval": [mean - half, mean + half]}


class SetDistances:
    """Distance of two sets of images by several networks, gathered as the images go by.

    Args:
        networks: the feature networks.
        kinds: of "frechet" and "kid".
    """

    def __init__(self, networks: Sequence[FeatureNetwork], kinds: Sequence[str]):
        self.networks = networks
        self.kinds = kinds
        keep = "kid" in kinds
        self._sets = [[SetFeatures(n.dim, keep), SetFeatures(n.dim, keep)] for n in networks]

    def add(self, images: Tensor | None, others: Tensor | None) -> None:
        """Take in a batch of either set, (B, 3, H, W) in [-1, 1]."""
        for network, sets in zip(self.networks, self._sets, strict=True):
            for kept, batch in zip(sets, (images, others), strict=True):
                if batch is not None and len(batch):
                    kept.add(network(batch))

    def scores(self, ranks: RankGroup) -> dict[str, dict[str, Any]]:
        """Name of each distance → `value`, `interval` (None), `network`, numbers of images.

        KID also has `std`, the deviation of its subsets, and says how they were taken.
        """
        found: dict[str, dict[str, Any]] = {}
        for network, sets in zip(self.networks, self._sets, strict=True):
            ours, theirs = (kept.gathered(ranks) for kept in sets)
            about = {
                "interval": None,
                "network": network.label,
                "network_fingerprint": network.fingerprint,
                "num_images": [ours.sums.count, theirs.sums.count],
            }
            if "frechet" in self.kinds:
                value = frechet_distance(ours.sums, theirs.sums)
                found[network.frechet_name] = {"value": value, **about}
            if "kid" in self.kinds:
                value, deviation = kernel_distance(ours.features, theirs.features)
                size = min(KID_SUBSET_SIZE, ours.sums.count, theirs.sums.count)
                rule = f"{KID_NUM_SUBSETS} subsets of {size:,}, cubic kernel, unbiased, seed 0"
                found[network.kid_name] = {
                    "value": value,
                    "std": deviation,
                    "rule": rule,
                    **about,
                }
        return found


def mean_scores(
    rows: Sequence[Mapping[str, Any]], perceptual_name: str | None
) -> dict[str, dict[str, Any]]:
    """Name of each score of images → its mean with an interval."""
    names = {**UNITS, "perceptual": perceptual_name or "perceptual distance"}
    return {
        name: mean_with_interval([row[key] for row in rows])
        for key, name in names.items()
        if key in rows[0]
    }
