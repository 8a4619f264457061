"""The two records of an image: what a user asks for, and what the engine draws.

Shapes: N image positions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mllm.model.configuration_unified import UnifiedConfig
from runtime.errors import UserError


@dataclass(frozen=True)
class ImageRequest:
    """An image that a user asks for, the `number`th of the prompt `id` of a list.

    Attributes:
        prompt: what it shows; "" draws without a prompt.
        seed: of its noise; the same request gives the same image, whatever is drawn beside it.
        negative_prompt: what guidance leads away from; by default the model without a prompt.
        kept: see `ImageJob`.
    """

    prompt: str
    seed: int = 0
    negative_prompt: str = ""
    kept: Tensor | None = None
    id: str = "00000"
    number: int = 0

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"{self.id}-{self.number:02d}.png"


@dataclass(frozen=True)
class ImageJob:
    """An image for the engine to draw.

    Attributes:
        prompt_ids: token ids of the prompt, up to and with the begin-of-image token.
        negative_ids: those of the negative or the empty prompt, for guidance.
        candidate: which of the drawings of this seed, from 0.
        kept: (N, 2) semantic and pixel codes that stay, -1 where one is drawn; a pixel code can
            only stay where its semantic code does. None where all are drawn.
    """

    prompt_ids: tuple[int, ...]
    negative_ids: tuple[int, ...] | None = None
    seed: int = 0
    candidate: int = 0
    kept: Tensor | None = None


def check_job(job: ImageJob, config: UnifiedConfig, guided: bool) -> None:
    """Refuse a job that a model cannot draw.

    Raises:
        UserError: if a prompt has no tokens, prompt and image are longer than the model's context,
            or the kept codes are not those of an image of this model.
        ValueError: if guidance has no negative prompt.
    """
    if guided and job.negative_ids is None:
        raise ValueError(
            "Guidance needs unconditional_ids (negative_ids of a job): let the processor make them."
        )
    if not job.prompt_ids or (guided and not job.negative_ids):
        raise UserError(
            "A prompt without tokens predicts nothing: end it, and a negative one, with the "
            "begin-of-image token, which no attention mask may hide."
        )
    negative = job.negative_ids if guided and job.negative_ids else ()
    length = max(len(job.prompt_ids), len(negative)) + config.num_image_positions
    if config.context_length is not None and length > config.context_length:
        raise UserError(
            f"A prompt with its image takes {length} tokens, and the model writes at most "
            f"{config.context_length}: shorten the prompt."
        )
    if (kept := job.kept) is None:
        return
    if kept.shape != (config.num_image_positions, 2):
        raise UserError(
            f"The kept codes have the shape {tuple(kept.shape)}: give two for each of "
            f"{config.num_image_positions} positions, -1 where one is drawn."
        )
    image = config.image_tokenizer_config
    limits = torch.tensor([image.num_semantic_codes, image.num_pixel_codes])
    if bool(((kept < -1) | (kept >= limits)).any()):
        raise UserError(
            f"Kept codes must lie in [0, {limits[0]}) for semantic and [0, {limits[1]}) for pixel "
            f"codes, or be -1 where one is drawn; got {int(kept.min())} to {int(kept.max())}."
        )
    if bool(((kept[:, 1] >= 0) & (kept[:, 0] < 0)).any()):
        raise UserError(
            "A pixel code is kept where its semantic code is not, and means nothing without it: "
            "keep both."
        )
