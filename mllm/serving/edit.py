"""What `semhitok generate` keeps of an image that is drawn again.

    --keep-mask FILE   patches that are all white in the mask keep both codes
    --keep-rows N      the first N rows of patches keep both; the rest is drawn on from them
    --keep semantics   every patch keeps its semantic code; pixel codes are drawn anew

Only codes are kept: what stays of the image is its reconstruction. Each code has seen the whole
image: a kept patch of the background still tells of the red circle that was beside it, which helps
to continue an image and makes it harder to change it. `--paint-over` hides what is drawn anew
before the codes are taken. The model draws from the upper left to the lower right, each code in the
light of those before it alone; what is kept further down is read by what comes after it.
"""

from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data_pipelines.images import open_image, resize_and_crop
from mllm.drawing.drawer import Drawer
from mllm.serving.settings import EditSettings
from runtime.errors import UserError
from runtime.files import fingerprint


class Edit(NamedTuple):
    """What stays of an image."""

    kept: Tensor | None = None
    """(N, 2) codes, see `ImageJob`; None where there is no image."""
    record: dict | None = None
    """How it was chosen, and a digest of the codes; for the files drawn with it."""


def keep(drawer: Drawer, settings: EditSettings) -> Edit:
    """The codes of `settings.image` that stay, if there is one.

    Raises:
        UserError: if an image cannot be read, or nothing would be kept or drawn.
    """
    if settings.image is None:
        return Edit()
    image = open_image(settings.image)
    config = drawer.model.config.image_tokenizer_config
    size, grid = config.image_size, config.grid_size
    if settings.keep is not None:
        kept, what = keep_semantics(drawer.codes_of(image), config.num_pixel_codes), "semantics"
    else:
        if settings.keep_mask is not None:
            mask = _kept_patches(open_image(settings.keep_mask), image, size, grid)
            what = f"{int(mask.sum())} patches"
        else:
            num_rows = settings.keep_rows or 0
            if num_rows >= grid:
                raise UserError(
                    f"--keep-rows {num_rows} leaves nothing to draw: an image has {grid} rows of "
                    f"patches; keep at most {grid - 1}."
                )
            mask, what = torch.arange(grid**2) < num_rows * grid, f"{num_rows} rows"
        seen = _painted_over(image, mask, size, grid) if settings.paint_over else image
        kept = keep_where(drawer.codes_of(seen), mask, config.num_pixel_codes)
    digest = fingerprint([kept.T.contiguous().numpy().tobytes()])
    return Edit(kept, {"what": what, "codes": digest[:16]})


def keep_where(image_codes: Tensor, mask: Tensor, num_pixel_codes: int) -> Tensor:
    """(N, 2) kept codes: both of the (N,) flat ones where the (N,) bool mask is true."""
    both = torch.stack([image_codes // num_pixel_codes, image_codes % num_pixel_codes], dim=-1)
    return both.masked_fill(~mask.unsqueeze(-1), -1)


def keep_semantics(image_codes: Tensor, num_pixel_codes: int) -> Tensor:
    """Keep what each patch shows, the semantic codes, and draw how it looks, the pixel codes."""
    semantic = image_codes // num_pixel_codes
    return torch.stack([semantic, torch.full_like(semantic, -1)], dim=-1)


def _kept_patches(mask: Image.Image, image: Image.Image, size: int, grid: int) -> Tensor:
    """(N,) bool, where the mask of an image keeps: in patches of which every pixel is white."""
    if mask.size != image.size:
        raise UserError(
            f"The mask has {mask.width}x{mask.height} pixels and the image {image.width}x"
            f"{image.height}: make them the same size, white where the image is to be kept."
        )
    pixels = np.array(resize_and_crop(mask, size).convert("L"))  # cut like the image
    white = torch.from_numpy(pixels) >= 128
    keeps = white.view(grid, size // grid, grid, size // grid).all(3).all(1).flatten()
    if keeps.all():
        raise UserError("The mask keeps the whole image: paint black where it is to be drawn anew.")
    if not keeps.any():
        raise UserError(
            "The mask keeps no patch of the image: paint white where the image is to be kept."
        )
    return keeps


def _painted_over(image: Image.Image, mask: Tensor, size: int, grid: int) -> Image.Image:
    """The image cut to the model's size, with the mean of what is kept in every other patch."""
    pixels = np.array(resize_and_crop(image, size))
    kept = mask.view(grid, grid).numpy().repeat(size // grid, 0).repeat(size // grid, 1)
    pixels[~kept] = pixels[kept].mean(0).round()
    return Image.fromarray(pixels)
