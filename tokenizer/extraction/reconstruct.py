"""Encode pictures and decode them again, side by side with the original.

semhitok reconstruct --tokenizer DIR IMAGE... --out DIR
"""

import argparse
from pathlib import Path

import torch
from PIL import Image

from data_pipelines.images import open_image, resize_and_crop, to_pil, to_tensor
from runtime.errors import UserError
from tokenizer.saved.model_folder import load_tokenizer


@torch.no_grad()
def reconstruct(
    tokenizer: Path | str, images: list[Path], out: Path, resolution: int | None = None
) -> Path:
    """Write `NAME.png` (original and reconstruction, side by side) for each image.

    Args:
        tokenizer: folder of a tokenizer.
        images: picture files; the shorter side is resized to the resolution, the middle kept.
        out: folder for the results.
        resolution: pixels of a side, a multiple of the patch; None is the model's own.

    Raises:
        UserError: if two images have one name, or the patch does not divide the resolution.
    """
    opened = [open_image(path) for path in images]  # all are checked before the model loads
    names = [path.stem for path in images]
    doubles = sorted({name for name in names if names.count(name) > 1})
    if doubles:
        raise UserError(
            f"Two images are named {doubles[0]!r} and would overwrite each other: rename one."
        )
    model = load_tokenizer(tokenizer).eval()
    size, patch_size = resolution or model.config.image_size, model.config.patch_size
    if size % patch_size:
        raise UserError(
            f"The resolution {size} is not divisible by the tokenizer's patches of {patch_size} "
            f"pixels: take {max(1, round(size / patch_size)) * patch_size}."
        )
    out.mkdir(parents=True, exist_ok=True)
    for name, image in zip(names, opened, strict=True):
        pixels = to_tensor(resize_and_crop(image, size)).unsqueeze(0)
        decoded = model.decode(model.encode(pixels))
        pair: Image.Image = to_pil(torch.cat([pixels[0], decoded[0]], dim=-1))
        pair.save(out / f"{name}.png")
    return out


def command(args: argparse.Namespace) -> Path:
    """`semhitok reconstruct`."""
    images = [Path(path) for path in args.images]
    return reconstruct(args.tokenizer, images, Path(args.out), args.resolution)
