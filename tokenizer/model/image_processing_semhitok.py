"""Image processor of SemHiTok: RGB, resize, centre crop, [-1, 1]."""

# transformers reads these defaults as class attributes.

from transformers import AutoImageProcessor
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import PILImageResampling

from tokenizer.model.configuration_semhitok import SemHiTokConfig


class SemHiTokImageProcessor(PilBackend):
    """Shorter side to `size`, centre crop, pixels to [-1, 1]: what `SemHiTokModel.encode` takes."""

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


def image_processor(config: SemHiTokConfig) -> SemHiTokImageProcessor:
    """The processor for a model's native size."""
    size = config.image_size
    return SemHiTokImageProcessor(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    )


AutoImageProcessor.register(SemHiTokConfig, slow_image_processor_class=SemHiTokImageProcessor)
