"""Draw a list of requests: texts and seeds in, image codes and pictures out.

drawer = Drawer(model, processor, batch_size=16)
for index, codes in drawer.draw(ImageRequest("a red bar", seed) for seed in range(100)):
    drawer.pictures(codes[None])[0].save(f"{index}.png")
"""

from collections.abc import Iterable, Iterator

import torch
from PIL import Image
from torch import Tensor

from mllm.drawing.best_of import draw_best_of
from mllm.drawing.engine import DrawingEngine
from mllm.drawing.requests import ImageJob, ImageRequest
from mllm.model.modeling_unified import UnifiedModel
from mllm.model.processing_unified import UnifiedProcessor
from mllm.model.sampler import Sampler
from runtime.progress import Progress


class Drawer:
    """Draws requests with one model and one sampler; arguments as of `DrawingEngine`."""

    def __init__(
        self,
        model: UnifiedModel,
        processor: UnifiedProcessor,
        sampler: Sampler | None = None,
        batch_size: int = 16,
        compile_step: bool = False,
    ):
        self.model, self.processor = model, processor
        self.engine = DrawingEngine(model, sampler, batch_size, compile_step)
        self.sampler = self.engine.sampler

    def _job(self, request: ImageRequest) -> ImageJob:
        draw = self.processor.chat.drawing
        prompt, negative = tuple(draw(request.prompt)), tuple(draw(request.negative_prompt))
        return ImageJob(prompt, negative, request.seed, kept=request.kept)

    def check(self, request: ImageRequest) -> None:
        """Raise the `UserError` that drawing would: a prompt too long, wrong kept codes."""
        self.engine.check(self._job(request))

    def draw(self, requests: Iterable[ImageRequest]) -> Iterator[tuple[int, Tensor]]:
        """Draw every request; of an endless iterable no more than a batch is read ahead.

        Yields:
            A request's index, and its (N,) flat image codes on the CPU, in the order in which
            images are finished.

        Raises:
            UserError: see `check`; all images finished before it have been given.
        """
        yield from draw_best_of(self.engine, map(self._job, requests))

    @torch.no_grad()
    def pictures(self, image_codes: Tensor) -> list[Image.Image]:
        """(B, N) flat image codes → PIL images.

        On a CPU one at a time, since the last bit of a picture may depend on how many are decoded
        together.
        """
        size = 1 if self.model.device.type == "cpu" else 64
        pictures = []
        for part in self.model.vocabulary.token_ids(image_codes.to(self.model.device)).split(size):
            pictures += self.processor.pictures(self.model.decode_image_tokens(part).float())
        return pictures

    @torch.no_grad()
    def codes_of(self, image: Image.Image) -> Tensor:
        """(N,) flat image codes of a picture, to edit it."""
        pixels = self.processor.image_processor(images=[image], return_tensors="pt")["pixel_values"]
        token_ids = self.model.get_image_tokens(pixels.to(self.model.device))
        return self.model.vocabulary.image_codes(token_ids)[0].cpu()


def draw(
    model: UnifiedModel,
    processor: UnifiedProcessor,
    prompts: list[str],
    seeds: list[int],
    sampler: Sampler | None = None,
    batch_size: int = 16,
) -> Iterator[Image.Image]:
    """Draw a list of prompts with a progress bar; arguments as of `Drawer`, and a seed for each.

    Yields:
        A picture of each prompt, in order.

    Raises:
        UserError: before anything is drawn, if a prompt with its image is longer than the model's
            context.
    """
    drawer = Drawer(model, processor, sampler, batch_size)
    for prompt in dict.fromkeys(prompts):
        drawer.check(ImageRequest(prompt))
    requests = (ImageRequest(*each) for each in zip(prompts, seeds, strict=True))
    early: dict[int, Image.Image] = {}  # finished before their turn
    following = 0
    with Progress(len(prompts), "draw", unit="image") as progress:
        for index, codes in drawer.draw(requests):
            early[index] = drawer.pictures(codes.unsqueeze(0))[0]
            progress.update()
            while following in early:
                yield early.pop(following)
                following += 1
