"""Draw several candidates and give the one in which the model itself best sees the prompt.

DALL·E ranks its candidates by CLIP (arXiv 2102.12092, section 2.6). Here the finished picture goes
through the image tokenizer again, and what counts is how much more probable the prompt makes the
semantic codes that the teacher sees in it: log p(codes | prompt) − log p(codes).
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .drawing import Sampler, draw_tokens

if TYPE_CHECKING:
    from .modeling_unified import UnifiedForConditionalGeneration


@torch.no_grad()
def draw_best(
    model: "UnifiedForConditionalGeneration",
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    unconditional_ids: Tensor | None = None,
    unconditional_mask: Tensor | None = None,
    seeds: list[int] | None = None,
    sampler: Sampler | None = None,
) -> Tensor:
    """Draw one image per prompt, the best of `sampler.num_candidates`.

    One candidate of every prompt is drawn at a time, so the memory needed does not grow with them.

    Args: as of `mllm.drawing.draw_tokens`.

    Returns:
        (B, N) image token ids.

    Raises:
        ValueError: if there is more than one candidate and no `unconditional_ids`.
    """
    sampler = sampler or Sampler(**model.config.image_sampler)

    def candidate(number: int) -> Tensor:
        return draw_tokens(
            model,
            input_ids,
            attention_mask,
            unconditional_ids,
            unconditional_mask,
            seeds,
            sampler,
            number,
        )

    best = candidate(0)
    if sampler.num_candidates == 1:
        return best
    if unconditional_ids is None:
        raise ValueError("Ranking needs unconditional_ids: let the processor make them.")

    def gain(token_ids: Tensor) -> Tensor:
        seen = model.get_image_tokens(model.decode_image_tokens(token_ids))
        return semantic_log_likelihood(
            model, input_ids, attention_mask, seen
        ) - semantic_log_likelihood(model, unconditional_ids, unconditional_mask, seen)

    best_gain = gain(best)
    for number in range(1, sampler.num_candidates):
        token_ids = candidate(number)
        new_gain = gain(token_ids)
        better = new_gain > best_gain
        best = torch.where(better.unsqueeze(-1), token_ids, best)
        best_gain = torch.where(better, new_gain, best_gain)
    return best


def semantic_log_likelihood(
    model: "UnifiedForConditionalGeneration",
    input_ids: Tensor,
    attention_mask: Tensor | None,
    image_tokens: Tensor,
) -> Tensor:
    """log p(semantic codes | prompt) of whole images, each code given the tokens before it.

    Args:
        input_ids: (B, L) prompts that end in the begin-of-image token, padded on the left.
        attention_mask: (B, L), 0 at padding.
        image_tokens: (B, N).

    Returns:
        (B,) in nats.
    """
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    attention_mask = torch.cat([attention_mask, torch.ones_like(image_tokens)], dim=1)
    hidden = model.language_model.get_decoder()(
        inputs_embeds=model.embed(torch.cat([input_ids, image_tokens], dim=1)),
        attention_mask=attention_mask,
        position_ids=(attention_mask.cumsum(-1) - 1).clamp_min(0),
    ).last_hidden_state[:, input_ids.shape[1] - 1 : -1]
    codes = model.vocabulary.image_codes(image_tokens)
    _, semantic, _ = model.image_head.losses(
        hidden.flatten(0, 1), codes.flatten(), model.image_tokenizer
    )
    return -semantic.view_as(image_tokens).sum(-1)
