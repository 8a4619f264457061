"""Draw images from prompts, from Python; `draw_list` is the command around it."""

from collections.abc import Iterator
from dataclasses import fields

from PIL import Image

from mllm.drawing.drawer import Drawer, DrawingJob
from mllm.model.modeling_unified import UnifiedModel
from mllm.model.processing_unified import UnifiedProcessor
from mllm.model.sampler import Sampler
from runtime.errors import UserError
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
    jobs = (DrawingJob(*job) for job in zip(prompts, seeds, strict=True))
    early: dict[int, Image.Image] = {}  # finished before their turn
    next_number = 0
    with Progress(len(prompts), "draw", unit="image") as progress:
        for number, codes in drawer.draw(jobs):
            early[number] = drawer.pictures(codes.unsqueeze(0))[0]
            progress.update()
            while next_number in early:
                yield early.pop(next_number)
                next_number += 1


def default_sampler(model: UnifiedModel, **overrides: float | None) -> Sampler:
    """The sampler of the model's config, with what is not None in `overrides` put in its place.

    Raises:
        UserError: if the config, which may be written by hand, has settings that are none.
    """
    known = {field.name for field in fields(Sampler)}
    if unknown := model.config.image_sampler.keys() - known:
        raise UserError(
            f"The model's config.json has the image_sampler setting {min(unknown)!r}, which is "
            f"none: leave it out, or choose of {', '.join(sorted(known))}."
        )
    settings = dict(model.config.image_sampler) | {
        key: value for key, value in overrides.items() if value is not None
    }
    return Sampler(**settings)
