"""What `semhitok generate` keeps of an image, from its options; `drawing.editing` has the rules.

    --keep-mask FILE   patches that are all white in the mask keep both codes
    --keep-rows R      the first R rows of patches keep both; the rest is drawn on from them
    --keep semantics   every patch keeps its semantic code; pixel codes are drawn anew

Only codes are kept: what stays of the image is its reconstruction. Each code has seen the whole
image: a kept patch of the background still tells of the red circle that was beside it, which helps
to go on with an image and hinders to change it. `--paint-over` hides what is drawn anew before the
codes are taken.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data_pipelines.images import open_image, resize_and_crop
from mllm.drawing.drawer import Drawer
from mllm.drawing.editing import grid_mask, keep_first_rows, keep_semantics, keep_where
from runtime.errors import UserError
from runtime.files import fingerprint


@dataclass(frozen=True, eq=False)
class Kept:
    """What stays of an image.

    Attributes:
        semantic, pixel: (N,) codes, -1 where they are drawn; None where there is no image.
        record: how it was chosen, and a digest of the codes; for the files drawn with it.
    """

    semantic: Tensor | None = None
    pixel: Tensor | None = None
    record: dict | None = None


NOTHING_KEPT = Kept()


def mask_places(mask: Image.Image, image: Image.Image, image_size: int, grid: int) -> Tensor:
    """(N,) bool, where a mask of an image keeps; both are cut to the model's size alike.

    Raises:
        UserError: if the mask has another size than the image, or leaves nothing to do.
    """
    if mask.size != image.size:
        raise UserError(
            f"The mask has {mask.width}x{mask.height} pixels and the image {image.width}x"
            f"{image.height}: make them the same size, white where the image is to be kept."
        )
    places = grid_mask(resize_and_crop(mask, image_size), grid, image_size)
    if places.all():
        raise UserError("The mask keeps the whole image: paint black where it is to be drawn anew.")
    if not places.any():
        raise UserError(
            "The mask keeps no patch of the image: paint white where the image is to be kept."
        )
    return places


def painted_over(image: Image.Image, places: Tensor, image_size: int, grid: int) -> Image.Image:
    """The image cut to the model's size, with the mean of what is kept in every other patch.

    Args:
        image: of any size.
        places: (N,) bool, true where patches are kept; at least one.
    """
    pixels = np.array(resize_and_crop(image, image_size))
    patch = image_size // grid
    kept = places.view(grid, grid).numpy().repeat(patch, 0).repeat(patch, 1)
    pixels[~kept] = pixels[kept].mean(0).round()
    return Image.fromarray(pixels)


def kept_from_arguments(drawer: Drawer, args: argparse.Namespace) -> Kept:
    """What the command line keeps of `--image`.

    Raises:
        UserError: unless a way to keep is given, and fits the image.
    """
    image = open_image(Path(args.image))
    config = drawer.model.config.image_tokenizer_config
    size, grid = config.image_size, config.grid_size
    num_pixel_codes = drawer.model.vocabulary.num_pixel_codes

    def codes_of_rest(places: Tensor) -> Tensor:
        seen = painted_over(image, places, size, grid) if args.paint_over else image
        return drawer.codes_of(seen)

    if args.keep is not None:
        semantic, pixel = keep_semantics(drawer.codes_of(image), num_pixel_codes)
        what = "semantics"
    elif args.keep_mask is not None:
        places = mask_places(open_image(Path(args.keep_mask)), image, size, grid)
        codes = codes_of_rest(places)
        semantic, pixel = keep_where(codes, places, num_pixel_codes)
        what = f"{int(places.sum())} patches"
    elif args.keep_rows is not None:
        if args.keep_rows >= grid:
            raise UserError(
                f"--keep-rows {args.keep_rows} leaves nothing to draw: an image has {grid} rows of "
                f"patches; keep at most {grid - 1}."
            )
        places = torch.arange(grid * grid) < args.keep_rows * grid
        codes = codes_of_rest(places)
        semantic, pixel = keep_first_rows(codes, args.keep_rows, num_pixel_codes)
        what = f"{args.keep_rows} rows"
    else:
        raise UserError(
            "An --image needs one of --keep-mask FILE, --keep-rows R and --keep semantics."
        )
    digest = fingerprint([torch.stack([semantic, pixel]).numpy().tobytes()])
    return Kept(semantic, pixel, {"what": what, "codes": digest[:16]})
