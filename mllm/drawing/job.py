"""What the drawing engine is asked for: one image, in token ids.

Shapes: B images, L tokens of a prompt, N image positions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mllm.model.configuration_unified import UnifiedConfig
from mllm.model.vocabulary import ImageVocabulary
from runtime.errors import UserError


@dataclass(frozen=True, eq=False)
class ImageJob:
    """One image to draw, in token ids.

    Attributes:
        prompt_ids: the prompt, up to and with the begin-of-image token.
        negative_ids: the same without it, or with what the image should not be, for guidance.
        seed: of its noise.
        candidate: which of the drawings of this seed, from 0.
        kept_semantic, kept_pixel: (N,) codes that stay, and -1 where they are drawn; a pixel code
            can only stay where its semantic code does.
    """

    prompt_ids: tuple[int, ...]
    negative_ids: tuple[int, ...] | None = None
    seed: int = 0
    candidate: int = 0
    kept_semantic: Tensor | None = None
    kept_pixel: Tensor | None = None

    def kept(self, num_positions: int) -> tuple[Tensor, Tensor]:
        """(N,) semantic and (N,) pixel codes that stay, -1 where they are drawn; on the CPU."""
        nothing = torch.full((num_positions,), -1)
        semantic = nothing if self.kept_semantic is None else self.kept_semantic
        pixel = nothing if self.kept_pixel is None else self.kept_pixel
        return torch.as_tensor(semantic).long().cpu(), torch.as_tensor(pixel).long().cpu()


def check_job(
    job: ImageJob,
    config: UnifiedConfig,
    vocabulary: ImageVocabulary,
    num_positions: int,
    guided: bool,
) -> None:
    """Refuse a job that the model cannot draw.

    Raises:
        UserError: if a prompt has no tokens, prompt and image are longer than the model's context,
            or the kept codes are not those of an image of this model.
        ValueError: if guidance has no negative prompt to go by.
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
    context = config.context_length
    negative = job.negative_ids if guided and job.negative_ids else ()
    length = max(len(job.prompt_ids), len(negative)) + num_positions
    if context is not None and length > context:
        raise UserError(
            f"A prompt with its image takes {length} tokens, and the model writes at most "
            f"{context}: shorten the prompt."
        )
    limits = (vocabulary.num_semantic_codes, vocabulary.num_pixel_codes)
    semantic, pixel = job.kept(num_positions)
    for kept, limit, name in zip((semantic, pixel), limits, ("semantic", "pixel"), strict=True):
        if kept.shape != (num_positions,):
            raise UserError(
                f"{kept.numel()} kept {name} codes for an image of {num_positions}: give "
                f"one for each position, -1 where it is drawn."
            )
        if int(kept.min()) < -1 or int(kept.max()) >= limit:
            raise UserError(
                f"Kept {name} codes must lie in [0, {limit}), or be -1 where they are drawn; "
                f"got {int(kept.min())} to {int(kept.max())}."
            )
    if bool(((pixel >= 0) & (semantic < 0)).any()):
        raise UserError(
            "A pixel code is kept where its semantic code is not, and means nothing without: "
            "keep both."
        )


def make_jobs(
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    unconditional_ids: Tensor | None = None,
    unconditional_mask: Tensor | None = None,
    seeds: list[int] | None = None,
    candidate: int = 0,
) -> list[ImageJob]:
    """Jobs of padded batches; see `mllm.drawing.best_of.draw_best`."""
    prompts = _unpadded(input_ids, attention_mask)
    negatives: list[tuple[int, ...] | None] = [None] * len(prompts)
    if unconditional_ids is not None:
        negatives = [*_unpadded(unconditional_ids, unconditional_mask)]
    seeds = seeds or list(range(len(prompts)))
    return [
        ImageJob(prompt, negative, seed, candidate)
        for prompt, negative, seed in zip(prompts, negatives, seeds, strict=True)
    ]


def _unpadded(input_ids: Tensor, mask: Tensor | None) -> list[tuple[int, ...]]:
    if mask is None:
        mask = torch.ones_like(input_ids)
    return [tuple(ids[keep.bool()].tolist()) for ids, keep in zip(input_ids, mask, strict=True)]
