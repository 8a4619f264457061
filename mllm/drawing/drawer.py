"""Draw a list of prompts: texts and seeds in, image codes and pictures out.

drawer = Drawer(model, processor, batch_size=16)
for number, codes in drawer.draw(DrawingJob("a red bar", seed) for seed in range(100)):
    drawer.pictures(codes[None])[0].save(f"{number}.png")
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from mllm.drawing.best_of import draw_best_of
from mllm.drawing.engine import DrawingEngine
from mllm.drawing.job import ImageJob
from mllm.model.sampler import Sampler
from tokenizer.model.modeling_semhitok import ImageCodes

if TYPE_CHECKING:
    from mllm.model.modeling_unified import UnifiedModel
    from mllm.model.processing_unified import UnifiedProcessor


@dataclass(frozen=True, eq=False)
class DrawingJob:
    """One image to draw.

    Attributes:
        prompt: what it shows.
        seed: of its noise; the same job has the same image, whatever is drawn beside it.
        negative_prompt: what guidance leads away from; by default the model without a prompt.
        kept_semantic, kept_pixel: (N,) codes that stay, row-major, and -1 where they are drawn; see
            `mllm.drawing.editing`. A pixel code can only stay where its semantic code does.
    """

    prompt: str
    seed: int = 0
    negative_prompt: str = ""
    kept_semantic: Tensor | Sequence[int] | None = None
    kept_pixel: Tensor | Sequence[int] | None = None


class Drawer:
    """Draws jobs with one model and one sampler.

    Args:
        model: in eval mode; its weights are read once, so make another drawer after changing them.
        processor: of the same folder.
        sampler: by default the one in the model's config.
        batch_size: images drawn together; a finished one makes room for the next at once.
        compile_step: see `DrawingEngine`.
    """

    def __init__(
        self,
        model: "UnifiedModel",
        processor: "UnifiedProcessor",
        sampler: Sampler | None = None,
        batch_size: int = 16,
        compile_step: bool = False,
    ):
        self.model, self.processor = model, processor
        self.engine = DrawingEngine(model, sampler, batch_size, compile_step)
        self.sampler = self.engine.sampler

    def image_job(self, job: DrawingJob) -> ImageJob:
        """The job in token ids."""
        chat = self.processor.chat
        kept = [
            None if codes is None else torch.as_tensor(codes)
            for codes in (job.kept_semantic, job.kept_pixel)
        ]
        return ImageJob(
            tuple(chat.drawing(job.prompt)),
            tuple(chat.drawing(job.negative_prompt)),
            job.seed,
            kept_semantic=kept[0],
            kept_pixel=kept[1],
        )

    def check(self, job: DrawingJob) -> None:
        """Raise the `UserError` that drawing it would: a prompt too long, kept codes amiss."""
        self.engine.check(self.image_job(job))

    def draw(self, jobs: Iterable[DrawingJob]) -> Iterator[tuple[int, Tensor]]:
        """Draw every job; of an endless iterable no more than a batch is read ahead.

        Yields:
            A job's place in `jobs`, and its (N,) flat image codes on the CPU, in the order in which
            images are finished.

        Raises:
            UserError: see `check`; all images finished before it have been given.
        """
        yield from draw_best_of(self.engine, (self.image_job(job) for job in jobs))

    @torch.no_grad()
    def pictures(self, image_codes: Tensor) -> list[Image.Image]:
        """(B, N) flat image codes → PIL images.

        On a CPU one at a time, since the last bit of a picture may depend on how many are decoded
        together.
        """
        device = self.model.device
        size = 1 if device.type == "cpu" else 64
        num_pixel_codes = self.model.vocabulary.num_pixel_codes
        pictures = []
        for part in image_codes.split(size):
            codes = ImageCodes.from_flat(part.to(device), num_pixel_codes)
            pictures += self.processor.pictures(self.model.image_tokenizer.decode(codes).float())
        return pictures

    @torch.no_grad()
    def codes_of(self, image: Image.Image) -> Tensor:
        """(N,) flat image codes of a picture, to edit it."""
        pixels = self.processor.image_processor(images=[image], return_tensors="pt")["pixel_values"]
        token_ids = self.model.get_image_tokens(pixels.to(self.model.device))
        return self.model.vocabulary.image_codes(token_ids)[0].cpu()
