"""Encode pictures and decode them again, side by side with the original.

semhitok reconstruct --tokenizer DIR IMAGE... --out DIR
"""

from pathlib import Path

import torch

from data_pipelines.images import open_image, resize_and_crop, to_pil, to_tensor, write_png
from runtime.errors import UserError
from runtime.run_folder import make_folder
from tokenizer.extraction.settings import ReconstructSettings
from tokenizer.saved.model_folder import load_tokenizer


@torch.no_grad()
def reconstruct(settings: ReconstructSettings) -> Path:
    """Write `NAME.png` (original and reconstruction, side by side) for each image.

    The shorter side is resized to the resolution, and the middle kept.

    Returns:
        The folder.

    Raises:
        UserError: if two images have one name, or the patch does not divide the resolution.
    """
    opened = [open_image(path) for path in settings.images]  # all are checked before the model
    names = [path.stem for path in settings.images]
    if doubles := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(
            f"two images are named {doubles[0]!r} and would overwrite each other; rename one"
        )
    model = load_tokenizer(settings.tokenizer).eval()
    patch_size = model.config.patch_size
    size = settings.resolution or model.config.image_size
    if size % patch_size:
        raise UserError(
            f"the resolution {size} is not divisible by the tokenizer's patches of {patch_size} "
            f"pixels; take {max(1, round(size / patch_size)) * patch_size}"
        )
    make_folder(settings.out)
    for name, image in zip(names, opened, strict=True):
        pixels = to_tensor(resize_and_crop(image, size)).unsqueeze(0)
        decoded = model.decode(model.encode(pixels))
        pair = to_pil(torch.cat([pixels[0], decoded[0]], dim=-1))
        write_png(pair, settings.out / f"{name}.png")
    return settings.out
