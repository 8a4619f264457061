"""Random shifts and flips of image batches, as a function of the seed and the step."""

import torch
import torch.nn.functional as F
from torch import Tensor

SIDES = ("left", "right")


def augment(
    images: Tensor, captions: list[str], max_shift: int, flip: bool, seed: tuple[int, ...]
) -> Tensor:
    """Shift each image by up to `max_shift` pixels, and mirror half of them.

    What a shift uncovers is filled with the border's pixels. An image whose caption speaks of left
    or right is never mirrored.

    Args:
        images: (B, 3, H, W), as the result is.
        captions: B texts.
        max_shift: pixels, in each direction of both axes.
        flip: mirror left and right with probability one half.
        seed: numbers that fix every choice, such as (seed, step, rank): nothing depends on what was
            drawn before, so a resumed run sees the same batch.
    """
    if not max_shift and not flip:
        return images
    generator = torch.Generator().manual_seed(hash(seed) % 2**63)
    height, width = images.shape[-2:]
    padded = F.pad(images, (max_shift,) * 4, mode="replicate") if max_shift else images
    offsets = torch.randint(0, 2 * max_shift + 1, (len(images), 2), generator=generator).tolist()
    mirrored = (torch.rand(len(images), generator=generator) < 0.5).tolist()
    augmented = []
    for image, (top, left), mirror, caption in zip(
        padded, offsets, mirrored, captions, strict=True
    ):
        image = image[:, top : top + height, left : left + width]
        if flip and mirror and not _speaks_of_sides(caption):
            image = image.flip(-1)
        augmented.append(image)
    return torch.stack(augmented)


def _speaks_of_sides(caption: str) -> bool:
    """Whether a text would be wrong beside the mirrored image."""
    return any(side in caption.lower() for side in SIDES)
