"""Encode pictures and decode them again, side by side with the original.

semhitok reconstruct --tokenizer DIR IMAGE... --out DIR
"""

from pathlib import Path

import torch

from data_pipelines.images import open_image, resize_and_crop, to_pil, to_tensor, write_png
from runtime.errors import UserError
from runtime.memory import memory_errors, require_memory
from runtime.run_folder import make_folder
from tokenizer.extraction.settings import ReconstructSettings
from tokenizer.model.configuration_semhitok import SemHiTokConfig
from tokenizer.saved.model_folder import load_tokenizer, tokenizer_config


@torch.no_grad()
def reconstruct(settings: ReconstructSettings) -> Path:
    """Write `NAME.png` (original and reconstruction, side by side) of each image into a folder.

    The shorter side is resized to the resolution, and the middle kept. Two images of one name are
    refused, and so is a resolution that the patch does not divide.
    """
    names = [path.stem for path in settings.images]
    if doubles := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(
            f"two images are named {doubles[0]!r} and would overwrite each other; rename one"
        )
    config = tokenizer_config(settings.tokenizer)
    size, patch_size = settings.resolution or config.image_size, config.patch_size
    if size % patch_size:
        raise UserError(
            f"the resolution {size} is not divisible by the tokenizer's patches of {patch_size} "
            f"pixels; take {max(1, round(size / patch_size)) * patch_size}"
        )
    require_memory(
        size**2 * (_bytes_per_pixel(config) + 3 * len(names)),
        f"{len(names)} images at a resolution of {size}",
        "lower --resolution, or give fewer images",
    )
    # All are checked before the model is loaded.
    pictures = [resize_and_crop(open_image(path), size) for path in settings.images]
    model = load_tokenizer(settings.tokenizer).eval()
    make_folder(settings.out)
    for name, picture in zip(names, pictures, strict=True):
        pixels = to_tensor(picture).unsqueeze(0)
        with memory_errors("lower --resolution"):
            decoded = model.decode(model.encode(pixels))
        pair = to_pil(torch.cat([pixels[0], decoded[0]], dim=-1))
        write_png(pair, settings.out / f"{name}.png")
    return settings.out


def _bytes_per_pixel(config: SemHiTokConfig) -> float:
    """About what encoding or decoding an image holds at once.

    Measured at 512² to 1024²: 300 to 430 bytes with a convolutional stem and head. A transformer
    holds some twelve numbers of its width for each patch, and a convolutional network eight copies
    of its channels, a quarter of its width, at full size.
    """
    kinds = (config.pixel_encoder_kind, config.decoder_kind, config.enhance_decoder_kind)
    widths = (config.pixel_hidden_size, config.decoder_hidden_size)
    width = max(*widths, config.enhance_decoder_hidden_size, config.teacher_config.hidden_size)
    return 450 + 48 * width / config.patch_size**2 + (8 * width if "conv" in kinds else 0)
