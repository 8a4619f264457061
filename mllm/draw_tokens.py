"""Draw a padded batch of prompts at once, as `generate(generation_mode="image")` does."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .drawing import DrawingEngine
from .image_job import make_jobs
from .sampler import Sampler

if TYPE_CHECKING:
    from .modeling_unified import UnifiedForConditionalGeneration


def draw_tokens(
    model: "UnifiedForConditionalGeneration",
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    unconditional_ids: Tensor | None = None,
    unconditional_mask: Tensor | None = None,
    seeds: list[int] | None = None,
    sampler: Sampler | None = None,
    candidate: int = 0,
) -> Tensor:
    """Draw one image per prompt.

    Args:
        input_ids: (B, L) prompts that end in the begin-of-image token, padded on the left.
        attention_mask: (B, L), 0 at padding.
        unconditional_ids: (B, L') the same without a prompt, or with a negative one; needed unless
            the guidance scale is 1.
        unconditional_mask: (B, L').
        seeds: one a picture; 0, 1, 2, … by default.
        sampler: see `Sampler`; by default the one in the model's config.
        candidate: which of the drawings of these seeds, from 0.

    Returns:
        (B, N) image token ids.
    """
    jobs = make_jobs(
        input_ids, attention_mask, unconditional_ids, unconditional_mask, seeds, candidate
    )
    engine = DrawingEngine(model, sampler, batch_size=len(jobs))
    codes = dict(engine.draw(jobs))
    drawn = torch.stack([codes[number] for number in range(len(jobs))])
    return model.vocabulary.token_ids(drawn).to(input_ids.device)
