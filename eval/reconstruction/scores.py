"""Scores of reconstructions, image by image.

Shapes: B batch, H·W pixels.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenizer.losses.image_quality import image_psnr, image_ssim, to_levels

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


def mean_scores(
    rows: Sequence[Mapping[str, Any]], perceptual_name: str | None
) -> dict[str, dict[str, Any]]:
    """Name of each score of images → its mean with an interval."""
    names = {**UNITS, "perceptual": perceptual_name or "perceptual distance"}
    return {
        name: mean_with_interval([row[key] for row in rows]) | {"num_images": len(rows)}
        for key, name in names.items()
        if key in rows[0]
    }
