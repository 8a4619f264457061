"""Draw images from prompts, from Python; `draw_list` is the command around it."""

from collections.abc import Iterator
from typing import Any

from PIL import Image

from mllm.drawing.drawer import Drawer
from mllm.drawing.requests import ImageRequest
from mllm.model.modeling_unified import UnifiedModel
from mllm.model.processing_unified import UnifiedProcessor
from mllm.model.sampler import Sampler, model_sampler
from runtime.progress import Progress


def draw(
    model: UnifiedModel,
    processor: UnifiedProcessor,
    prompts: list[str],
    seeds: list[int],
    sampler: Sampler,
    batch_size: int = 16,
) -> Iterator[Image.Image]:
    """Draw a list of prompts, with a progress bar.

    Args:
        model, processor: see `mllm.saved.load.load_for_inference`.
        prompts: texts.
        seeds: one for each.
        sampler: see `default_sampler`.
        batch_size: images drawn together; the images do not depend on it.

    Yields:
        One PIL image for each prompt, in order.

    Raises:
        UserError: if a prompt with its image is longer than the model's context.
    """
    drawer = Drawer(model, processor, sampler, batch_size)
    requests = (ImageRequest(*each) for each in zip(prompts, seeds, strict=True))
    early: dict[int, Image.Image] = {}  # finished before their turn
    next_number = 0
    with Progress(len(prompts), "draw", unit="image") as progress:
        for number, codes in drawer.draw(requests):
            early[number] = drawer.pictures(codes.unsqueeze(0))[0]
            progress.update()
            while next_number in early:
                yield early.pop(next_number)
                next_number += 1


def default_sampler(model: UnifiedModel, **overrides: Any) -> Sampler:
    """The sampler of the model's config, with what is not None in `overrides` put in its place.

    Raises:
        UserError: as `model_sampler`.
    """
    given = {key: value for key, value in overrides.items() if value is not None}
    return model_sampler(model.config.image_sampler, Sampler(**given))
