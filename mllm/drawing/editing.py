"""What of an image stays when it is drawn again.

Each function gives the kept semantic and pixel codes of a job, (N,) each, with -1 where a code is
drawn: `DrawingJob(prompt, seed, kept_semantic=semantic, kept_pixel=pixel)`.

The model draws from the upper left to the lower right. A code is drawn in the light of those before
it alone; what stays further down is taken as it is and read by what comes after it.
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from runtime.errors import UserError


def keep_where(image_codes: Tensor, mask: Tensor, num_pixel_codes: int) -> tuple[Tensor, Tensor]:
    """Keep both codes where the mask is true, draw both elsewhere.

    Args:
        image_codes: (N,) flat.
        mask: (N,) bool.
        num_pixel_codes: M.
    """
    if mask.shape != image_codes.shape:
        raise UserError(
            f"The mask has {mask.numel()} positions and the image {image_codes.numel()}: give one "
            f"for each."
        )
    return (
        torch.where(mask, image_codes // num_pixel_codes, -1),
        torch.where(mask, image_codes % num_pixel_codes, -1),
    )


def keep_first_rows(
    image_codes: Tensor, num_rows: int, num_pixel_codes: int
) -> tuple[Tensor, Tensor]:
    """Go on from the first rows of an image.

    Args:
        image_codes: (N,) flat, of a square grid.
        num_rows: of the grid; from 0 (all is drawn) to its height (all stays).
        num_pixel_codes: M.
    """
    side = int(len(image_codes) ** 0.5)
    if not 0 <= num_rows <= side:
        raise UserError(f"An image has {side} rows of positions; {num_rows} of them cannot stay.")
    mask = torch.arange(len(image_codes)) < num_rows * side
    return keep_where(image_codes, mask, num_pixel_codes)


def keep_semantics(image_codes: Tensor, num_pixel_codes: int) -> tuple[Tensor, Tensor]:
    """Keep what each patch shows, the semantic codes, and draw how it looks, the pixel codes."""
    return image_codes // num_pixel_codes, torch.full_like(image_codes, -1)


def grid_mask(mask: Image.Image, grid_size: int, image_size: int | None = None) -> Tensor:
    """(N,) bool of a mask picture: true where every pixel of a patch is white, so that it stays.

    Args:
        mask: black where the image is drawn again; a patch that is partly black is drawn whole.
        grid_size: rows and columns of positions.
        image_size: width and height that the mask must have; None takes any square one that the
            grid divides.

    Raises:
        UserError: if the mask does not fit.
    """
    width, height = mask.size
    wanted = image_size or width
    if (width, height) not in ((wanted, wanted), (grid_size, grid_size)) or width % grid_size:
        raise UserError(
            f"The mask has {width}×{height} pixels: make it {image_size or 'a square of'}"
            f"{f'×{image_size}' if image_size else ' whole patches'}, or {grid_size}×{grid_size}, "
            f"one for each position."
        )
    patch = width // grid_size
    white = torch.from_numpy(np.array(mask.convert("L"))) >= 128
    return white.view(grid_size, patch, grid_size, patch).all(3).all(1).flatten()
