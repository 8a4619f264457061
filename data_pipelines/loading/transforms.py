"""From one decode to what the networks see: crops, flips and both normalisations.

Pixels stay uint8 from the decoder to the batch. The teacher's view and the pixel branch's are two
normalisations of the same pixels, computed on the batch, so an image is decoded and moved between
processes once and in a quarter of the bytes.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from data_pipelines.images import cut_middle, resize_and_crop

if TYPE_CHECKING:
    from torch import Tensor

SIDES = ("left", "right")

CropKind = Literal["centre", "adm", "random"]


def speaks_of_sides(captions: Sequence[str]) -> bool:
    """Whether any of the texts would be wrong beside the mirrored image."""
    return any(side in caption.lower() for caption in captions for side in SIDES)


def centre_crop_adm(image: Image.Image, size: int) -> Image.Image:
    """The centre crop of ADM (Dhariwal and Nichol, 2021), which its FID references are made with.

    `center_crop_arr` of guided-diffusion's image_datasets.py: halves by averaging 2 x 2 pixels
    while the shorter side is at least twice `size`, scales the rest of the way bicubically, and
    cuts the middle; where pixels are left over on both sides, an odd one stays at the end.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    return cut_middle(image.resize((width, height), Image.Resampling.BICUBIC), size)


def random_crop(
    image: Image.Image, size: int, draw: random.Random, max_zoom: float = 1.25
) -> Image.Image:
    """A square from anywhere in the image, its side the shorter one divided by 1 … `max_zoom`.

    Args:
        image: RGB.
        size: pixels of the result.
        draw: decides the place.
        max_zoom: 1 keeps the whole shorter side.
    """
    side = min(image.size) / draw.uniform(1.0, max_zoom)
    left, top = (draw.uniform(0.0, length - side) for length in image.size)
    # Rounding must not carry the box over the edge, which Pillow refuses.
    box = (left, top, min(left + side, image.width), min(top + side, image.height))
    return image.resize((size, size), Image.Resampling.BICUBIC, box=box)


@dataclass(frozen=True)
class ImageTransform:
    """An upright RGB picture to a square of pixels."""

    size: int
    """Height and width of the result."""
    crop: CropKind = "centre"
    """`centre`: shorter side scaled, middle cut, as models are shown pictures; `adm`: by ADM's
    rule; `random`: a square from anywhere."""
    max_zoom: float = 1.25
    """Of the random crop."""
    flip: bool = False
    """Mirror half of the images, but none whose captions speak of left or right."""

    def __call__(
        self, image: Image.Image, captions: Sequence[str], draw: random.Random
    ) -> np.ndarray:
        """Cut the square.

        Args:
            image: RGB.
            captions: every text that may stand beside it.
            draw: decides crop and flip.

        Returns:
            (size, size, 3) uint8.
        """
        if self.crop == "centre":
            square = resize_and_crop(image, self.size)
        elif self.crop == "adm":
            square = centre_crop_adm(image, self.size)
        else:
            square = random_crop(image, self.size, draw, self.max_zoom)
        if self.flip and draw.random() < 0.5 and not speaks_of_sides(captions):
            square = square.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.array(square)  # its own and writable, as torch wants it


@dataclass(frozen=True)
class Normalisation:
    """Pixels to the floats that a network was trained on, and back."""

    mean: tuple[float, float, float]
    """Of red, green and blue in [0, 1]."""
    std: tuple[float, float, float]
    """Likewise."""

    def apply(self, pixels: Tensor) -> Tensor:
        """(..., H, W, 3) uint8 as (..., 3, H, W) float32, (pixel / 255 - mean) / std."""
        floats = to_floats(pixels)
        return self._of_floats(floats, out=floats)

    def _of_floats(self, floats: Tensor, out: Tensor | None = None) -> Tensor:
        """(..., 3, H, W) float32 in [0, 255], normalised; in place where `out` is the same."""
        import torch

        mean, std = (
            torch.tensor(each, device=floats.device)[:, None, None]
            for each in (self.mean, self.std)
        )
        return torch.mul(floats, 1 / (255 * std), out=out).sub_(mean / std)

    def invert(self, images: Tensor) -> Tensor:
        """(..., 3, H, W) float as (..., H, W, 3) uint8; exactly what `apply` was given."""
        import torch

        mean, std = (
            torch.tensor(each, device=images.device) * 255 for each in (self.mean, self.std)
        )
        pixels = images.movedim(-3, -1).to(torch.float32) * std + mean
        return pixels.round_().clamp_(0, 255).to(torch.uint8)


PIXEL_BRANCH = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""[-1, 1], as `images.scale_pixels` gives it."""


def two_views(pixels: Tensor, teacher: Normalisation) -> tuple[Tensor, Tensor]:
    """The teacher's view and the pixel branch's, of one decode.

    Args:
        pixels: (B, H, W, 3) uint8.
        teacher: its normalisation.

    Returns:
        Two (B, 3, H, W) float32; one tensor twice where the normalisations are the same.
    """
    floats = to_floats(pixels)
    theirs = None if teacher == PIXEL_BRANCH else teacher._of_floats(floats)
    ours = PIXEL_BRANCH._of_floats(floats, out=floats)
    return ours if theirs is None else theirs, ours


def to_floats(pixels: Tensor) -> Tensor:
    """(..., H, W, 3) uint8 as (..., 3, H, W) float32 in [0, 255].

    The order is changed while the pixels are still bytes, a quarter of what is moved otherwise.
    """
    import torch

    return pixels.movedim(-1, -3).contiguous().to(torch.float32)
