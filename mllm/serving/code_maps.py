"""Codes as colours: patches of one code have one colour, different codes hardly ever the same."""

import colorsys

import numpy as np
from PIL import Image
from torch import Tensor

GOLDEN = 0.6180339887498949  # its multiples mod 1 are spread as evenly as any sequence's


def code_map(codes: Tensor, grid_size: int, image_size: int) -> Image.Image:
    """A picture of (N,) codes, row-major, as large as the image that they stand for."""
    colours = {code: _colour(code) for code in set(codes.tolist())}
    patches = np.array([colours[code] for code in codes.tolist()], dtype=np.uint8)
    small = Image.fromarray(patches.reshape(grid_size, grid_size, 3))
    return small.resize((image_size, image_size), Image.Resampling.NEAREST)


def _colour(code: int) -> tuple[int, ...]:
    hue = code * GOLDEN % 1
    saturation = 0.45 + 0.45 * (code * GOLDEN**2 % 1)
    value = 0.6 + 0.4 * (code * GOLDEN**3 % 1)
    return tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue, saturation, value))
