"""Differentiable augmentation of what a discriminator sees (DiffAugment, arXiv 2006.10738).

Changes of colour, a shift, and a hole; each image has its own. The caller passes the random
numbers, so that they can be a function of the step and of the image's position in the global batch.
"""

import torch
from torch import Tensor

NUM_CHOICES = 10
"""Uniform numbers for each image: three switches, three for colour, two for shift and hole each."""


def diff_augment(images: Tensor, choices: Tensor, probability: float) -> Tensor:
    """Change the colours of each image, shift it and cut a hole, each with the same probability.

    Args:
        images: (B, 3, H, W) in [-1, 1]; the result is differentiable in them.
        choices: (B, NUM_CHOICES) uniform in [0, 1).
        probability: of each of the three.
    """
    choices = choices.to(images)
    on = choices[:, :3] < probability
    images = torch.where(_each(on[:, 0]), _colour(images, choices[:, 3:6]), images)
    images = torch.where(_each(on[:, 1]), _shift(images, choices[:, 6:8]), images)
    return torch.where(_each(on[:, 2]), _cut(images, choices[:, 8:10]), images)


def _each(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _colour(images: Tensor, choices: Tensor) -> Tensor:
    """Brightness within ±0.5, saturation within 0 to 2, contrast within 0.5 to 1.5."""
    brightness, saturation, contrast = (_each(column) for column in choices.unbind(1))
    images = images + (brightness - 0.5)
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * 2 * saturation
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + (images - mean) * (contrast + 0.5)


def _shift(images: Tensor, choices: Tensor) -> Tensor:
    """Up to an eighth of each side; what comes in from outside is zero."""
    height, width = images.shape[-2:]
    rows = _moved(height, choices[:, 0])
    columns = _moved(width, choices[:, 1])
    inside = ((rows >= 0) & (rows < height))[:, None, :, None]
    inside = inside & ((columns >= 0) & (columns < width))[:, None, None, :]
    batch = torch.arange(len(images), device=images.device).view(-1, 1, 1)
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    moved = images.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2) * inside


def _moved(size: int, choice: Tensor) -> Tensor:
    """(B, size) source index of each row or column."""
    most = size // 8
    offset = (choice * (2 * most + 1)).long() - most
    return torch.arange(size, device=choice.device) + offset[:, None]


def _cut(images: Tensor, choices: Tensor) -> Tensor:
    """A zero rectangle of half of each side, its middle anywhere in the image."""
    height, width = images.shape[-2:]
    hole = _near(height, choices[:, 0])[:, None, :, None]
    hole = hole & _near(width, choices[:, 1])[:, None, None, :]
    return images * ~hole


def _near(size: int, choice: Tensor) -> Tensor:
    """(B, size) whether a row or column is within a quarter of the side of the chosen middle."""
    middle = choice[:, None] * size
    return (torch.arange(size, device=choice.device) + 0.5 - middle).abs() < size / 4
