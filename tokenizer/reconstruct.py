"""Encode pictures and decode them again, side by side with the original.

semhitok reconstruct --tokenizer DIR IMAGE... --out DIR
"""

import argparse
from pathlib import Path

import torch
from PIL import Image

from data_pipelines.images import open_image, resize_and_crop, to_pil, to_tensor
from semhitok.errors import UserError
from tokenizer.model_folder import load_tokenizer


@torch.no_grad()
def reconstruct(tokenizer: Path | str, images: list[Path], out: Path) -> Path:
    """Write `NAME.png` (original and reconstruction, side by side) for each image.

    Args:
        tokenizer: folder of a tokenizer.
        images: picture files; the shorter side is resized to the model's size, the middle kept.
        out: folder for the results.
    """
    opened = [open_image(path) for path in images]  # all are checked before the model loads
    names = [path.stem for path in images]
    doubles = sorted({name for name in names if names.count(name) > 1})
    if doubles:
        raise UserError(
            f"Two images are named {doubles[0]!r} and would overwrite each other: rename one."
        )
    model = load_tokenizer(tokenizer).eval()
    out.mkdir(parents=True, exist_ok=True)
    for name, image in zip(names, opened, strict=True):
        pixels = to_tensor(resize_and_crop(image, model.config.image_size)).unsqueeze(0)
        decoded = model.decode(model.encode(pixels))
        pair: Image.Image = to_pil(torch.cat([pixels[0], decoded[0]], dim=-1))
        pair.save(out / f"{name}.png")
    return out


def command(args: argparse.Namespace) -> Path:
    """`semhitok reconstruct`."""
    return reconstruct(args.tokenizer, [Path(path) for path in args.images], Path(args.out))
