"""What of an image stays when it is drawn again.

Codes are kept, not pixels: (N, 2) semantic and pixel codes, -1 where one is drawn. They go into
`ImageRequest.kept`. The model draws from the upper left to the lower right. A code is drawn in the
light of those before it alone; what stays further down is read by what comes after it.
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data_pipelines.images import resize_and_crop
from runtime.errors import UserError


def keep_where(image_codes: Tensor, mask: Tensor, num_pixel_codes: int) -> Tensor:
    """(N, 2) kept codes: both of the (N,) flat ones where the (N,) bool mask is true."""
    if mask.shape != image_codes.shape:
        raise UserError(
            f"The mask has {mask.numel()} positions and the image {image_codes.numel()}: give one "
            f"for each."
        )
    both = torch.stack([image_codes // num_pixel_codes, image_codes % num_pixel_codes], dim=-1)
    return both.masked_fill(~mask.unsqueeze(-1), -1)


def keep_semantics(image_codes: Tensor, num_pixel_codes: int) -> Tensor:
    """Keep what each patch shows, the semantic codes, and draw how it looks, the pixel codes."""
    semantic = image_codes // num_pixel_codes
    return torch.stack([semantic, torch.full_like(semantic, -1)], dim=-1)


def rows_mask(num_rows: int, grid_size: int) -> Tensor:
    """(N,) bool, true in the first rows of the grid, to continue an image from them."""
    return torch.arange(grid_size**2) < num_rows * grid_size


def grid_mask(mask: Image.Image, grid_size: int) -> Tensor:
    """(N,) bool of a square mask picture: true where every pixel of a patch is white, and the image
    stays; a patch that is partly black is drawn whole.

    Raises:
        UserError: if the mask does not consist of whole patches.
    """
    width, height = mask.size
    if width != height or width % grid_size:
        raise UserError(
            f"The mask has {width}×{height} pixels: make it a square of {grid_size}×{grid_size} "
            f"whole patches."
        )
    patch = width // grid_size
    white = torch.from_numpy(np.array(mask.convert("L"))) >= 128
    return white.view(grid_size, patch, grid_size, patch).all(3).all(1).flatten()


def painted_over(image: Image.Image, mask: Tensor, image_size: int) -> Image.Image:
    """The image cut to the model's size, with the mean of what is kept in every other patch; the
    (N,) bool mask is true where patches are kept, in at least one."""
    pixels = np.array(resize_and_crop(image, image_size))
    grid = int(len(mask) ** 0.5)
    patch = image_size // grid
    kept = mask.view(grid, grid).numpy().repeat(patch, 0).repeat(patch, 1)
    pixels[~kept] = pixels[kept].mean(0).round()
    return Image.fromarray(pixels)
