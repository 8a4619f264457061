"""Image processor of SemHiTok: the pixels of a file are those that training and extraction see."""

import base64
import binascii
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub.utils import get_session
from PIL import Image
from transformers import AutoImageProcessor, BatchFeature
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import PILImageResampling

from data_pipelines.images import ImageError, open_image, resize_and_crop, to_tensor, upright_rgb
from tokenizer.model.configuration_semhitok import SemHiTokConfig

_STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "resample")


class SemHiTokImageProcessor(PilBackend):
    """Shorter side to `size`, centre crop, pixels to [-1, 1]: what `SemHiTokModel.encode` takes.

    Files, pictures and arrays of bytes pass through the functions of `data_pipelines.images`, as
    everywhere else: turned upright, 16 bits scaled, alpha over white. Other steps than the default
    ones, and arrays of floats, are left to transformers.
    """

    resample = PILImageResampling.BICUBIC
    image_mean = [0.5, 0.5, 0.5]
    image_std = [0.5, 0.5, 0.5]
    size = {"shortest_edge": 256}
    crop_size = {"height": 256, "width": 256}
    default_to_square = False
    do_resize = True
    do_center_crop = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    model_input_names = ["pixel_values"]

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        """Pictures of paths, URLs and base64 texts; pictures and arrays pass through."""
        if isinstance(image_url_or_urls, str | Path):
            return _fetch(str(image_url_or_urls))
        return super().fetch_images(image_url_or_urls)

    def process_image(self, image: Any, *args: Any, **options: Any) -> np.ndarray:
        """(3, H, W) uint8 of a picture or of bytes; transformers' own of anything else."""
        if not options.get("do_convert_rgb", True):
            return super().process_image(image, *args, **options)
        if not isinstance(image, Image.Image):
            values = super().process_image(image, *args, **options | {"do_convert_rgb": False})
            is_wide = values.dtype.kind in "iu" and values.dtype not in (np.uint8, np.uint16)
            if is_wide and values.size and values.min() >= 0 and values.max() <= 255:
                values = values.astype(np.uint8)  # levels, whatever type holds them
            if values.dtype not in (np.uint8, np.uint16) or len(values) not in (1, 3, 4):
                return super().process_image(image, *args, **options)
            if values.dtype == np.uint16 and len(values) > 1:
                raise ImageError(
                    "an array of 16-bit colours is not accepted; give levels of 8 bits"
                )
            image = Image.fromarray(np.moveaxis(values, 0, -1) if len(values) > 1 else values[0])
        return np.moveaxis(np.asarray(upright_rgb(image)), -1, 0)

    def _preprocess(self, images: list[np.ndarray], **options: Any) -> BatchFeature:
        size, crop_size = options["size"], options["crop_size"]
        is_square = size.shortest_edge == crop_size.height == crop_size.width
        is_own = all(
            np.array_equal(options.get(name, False), getattr(SemHiTokImageProcessor, name))
            for name in (*_STEPS, "image_mean", "image_std", "rescale_factor")
        )
        if not (is_square and is_own and all(image.dtype == np.uint8 for image in images)):
            return super()._preprocess(images, **options)
        pictures = [Image.fromarray(np.moveaxis(image, 0, -1)) for image in images]
        pixels = [to_tensor(resize_and_crop(each, size.shortest_edge)).numpy() for each in pictures]
        return BatchFeature({"pixel_values": pixels}, tensor_type=options["return_tensors"])


def _fetch(source: str) -> Image.Image:
    """The picture of a URL, a path, or a base64 text with or without a `data:` head."""
    if source.startswith(("http://", "https://")):
        return open_image(get_session().get(source, follow_redirects=True).content, name=source)
    if source.startswith("data:image/"):
        return open_image(base64.b64decode(source.partition(",")[2]), name="the image of a URL")
    if not Path(source[:255]).is_file():
        try:
            return open_image(base64.b64decode(source, validate=True), name="the base64 image")
        except binascii.Error:
            pass  # then it is a path, which the error names
    return open_image(Path(source))


def image_processor(config: SemHiTokConfig) -> SemHiTokImageProcessor:
    """The processor for a model's native size."""
    size = config.image_size
    return SemHiTokImageProcessor(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    )


AutoImageProcessor.register(SemHiTokConfig, slow_image_processor_class=SemHiTokImageProcessor)
