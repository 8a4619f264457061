"""Scores of reconstructions, image by image.

Shapes: B batch, H·W pixels.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from eval.measures.image_source import images_at_once
from eval.measures.intervals import mean_with_interval
from tokenizer.losses.image_quality import image_psnr, image_ssim, to_levels

MS_SSIM_MIN_SIZE = 176
"""Pixels: torchmetrics wants 11 of them, its window, on the last of five scales, a 16th in size."""
NAMES = {"psnr": "PSNR, dB", "ssim": "SSIM", "ms_ssim": "MS-SSIM"}


def image_scores(
    images: Tensor, rebuilt: Tensor, distance: Callable[[Tensor, Tensor], Tensor] | None = None
) -> dict[str, list[float]]:
    """Scores of each image, (B, 3, H, W) in [-1, 1], as it would be saved.

    Returns:
        `psnr`, `ssim`, `ms_ssim` (five scales, window 11 with sigma 1.5) where the images are large
        enough, `perceptual` by the distance (`tokenizer.losses.perceptual`) where one is given.
    """
    at_once = images_at_once(len(images), max(images.shape[-2:]))
    if at_once < len(images):
        parts = [
            image_scores(*pair, distance)
            for pair in zip(images.split(at_once), rebuilt.split(at_once), strict=True)
        ]
        return {name: [value for part in parts for value in part[name]] for name in parts[0]}
    levels, target = to_levels(rebuilt), to_levels(images)
    scores = {"psnr": image_psnr(levels, target), "ssim": image_ssim(levels, target)}
    if min(images.shape[-2:]) >= MS_SSIM_MIN_SIZE:
        scores["ms_ssim"] = multiscale_structural_similarity_index_measure(
            levels, target, data_range=255.0, reduction="none"
        )
    if distance is not None:
        with torch.no_grad():
            scores["perceptual"] = distance(levels / 127.5 - 1, target / 127.5 - 1).cpu()
    return {name: values.tolist() for name, values in scores.items()}


def mean_scores(rows: Sequence[Mapping[str, Any]], perceptual: str) -> dict[str, dict[str, Any]]:
    """Name of each score of images, of the perceptual one as given → its mean with an interval."""
    return {
        name: mean_with_interval([row[key] for row in rows]) | {"num_images": len(rows)}
        for key, name in {**NAMES, "perceptual": perceptual}.items()
        if key in rows[0]
    }
