"""Draw images token by token: guidance, sampling at both levels of the code, one static batch.

Guidance is u + s·(c − u) on the logits of both levels, c with the prompt and u without it.

Shapes: B images, N positions, K semantic codes, M pixel codes each.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import DynamicCache

if TYPE_CHECKING:
    from .modeling_unified import UnifiedForConditionalGeneration


@dataclass(frozen=True)
class Sampler:
    """How codes are drawn from their scores."""

    guidance_scale: float = 3.0
    """s; 1 draws from the conditional model alone, at half the cost."""
    temperature: float = 1.0
    """Divides the scores; 0 takes the best code."""
    pixel_temperature: float | None = None
    """The same for pixel codes, where they should differ from semantic ones."""
    top_k: int = 0
    """Keep the k best codes of a level; 0 keeps all."""
    top_p: float = 1.0
    """Keep the fewest codes of a level whose probabilities sum to p."""
    num_candidates: int = 1
    """Drawings made for each one that is given; see `mllm.best_of`."""

    def choose(self, scores: Tensor, uniform: Tensor) -> Tensor:
        """Draw one code a row.

        Args:
            scores: (B, C) unnormalised log-probabilities.
            uniform: (B,) in [0, 1), the only randomness.

        Returns:
            (B,) int64 in [0, C).
        """
        if self.temperature == 0:
            return scores.argmax(-1)
        ordered, index = (scores / self.temperature).double().sort(-1, descending=True)
        probabilities = ordered.softmax(-1)
        keep = probabilities.cumsum(-1) - probabilities < self.top_p
        if self.top_k:
            keep &= torch.arange(keep.shape[-1], device=keep.device) < self.top_k
        keep[:, 0] = True  # the best code always stays, whatever top_p is
        cumulative = (probabilities * keep).cumsum(-1)
        threshold = uniform.double().unsqueeze(-1) * cumulative[:, -1:]
        place = torch.searchsorted(cumulative, threshold, right=True)
        # A threshold that rounds up to the total must not reach a code that was cut off.
        place = torch.minimum(place, keep.sum(-1, keepdim=True) - 1)
        return index.gather(-1, place).squeeze(-1)

    def for_pixels(self) -> "Sampler":
        """How pixel codes are drawn."""
        own = self.pixel_temperature
        return self if own is None else replace(self, temperature=own)


def noise(seeds: list[int], num_positions: int, candidate: int = 0) -> Tensor:
    """(B, N, 2) uniform numbers, each image's from its own seed: the batch does not matter.

    Args:
        seeds: B of them.
        num_positions: N.
        candidate: which of the drawings of one seed, from 0.
    """
    shape = (candidate + 1, num_positions, 2)
    return torch.stack(
        [torch.rand(shape, generator=torch.Generator().manual_seed(seed))[-1] for seed in seeds]
    )


@torch.no_grad()
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
        unconditional_ids: (B, L') the same without a prompt; needed unless the guidance scale is 1.
        unconditional_mask: (B, L').
        seeds: one a picture; 0, 1, 2, … by default.
        sampler: see `Sampler`; by default the one in the model's config.
        candidate: which of the drawings of these seeds, from 0.

    Returns:
        (B, N) image token ids.
    """
    sampler = sampler or Sampler(**model.config.image_sampler)
    pixel_sampler = sampler.for_pixels()
    batch_size, device = len(input_ids), input_ids.device
    num_positions = model.config.num_image_positions
    guided = sampler.guidance_scale != 1
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    if guided:
        if unconditional_ids is None:
            raise ValueError("Guidance needs unconditional_ids: let the processor make them.")
        if unconditional_mask is None:
            unconditional_mask = torch.ones_like(unconditional_ids)
        input_ids, attention_mask = _stack_left_padded(
            (input_ids, attention_mask), (unconditional_ids, unconditional_mask)
        )
    uniform = noise(seeds or list(range(batch_size)), num_positions, candidate).to(device)

    def guide(scores: Tensor) -> Tensor:
        if not guided:
            return scores
        conditional, unconditional = scores.chunk(2)
        return unconditional + sampler.guidance_scale * (conditional - unconditional)

    def twice(codes: Tensor) -> Tensor:
        return torch.cat([codes, codes]) if guided else codes

    decoder, head = model.language_model.get_decoder(), model.image_head
    cache = DynamicCache(config=model.config.text_config)
    embeddings = model.embed(input_ids)
    positions = (attention_mask.cumsum(-1) - 1).clamp_min(0)
    tokens = []
    for step in range(num_positions):
        hidden = decoder(
            inputs_embeds=embeddings,
            attention_mask=attention_mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
        semantic = sampler.choose(guide(head.semantic_scores(hidden)), uniform[:, step, 0])
        scores = head.pixel_scores(hidden, twice(semantic), model.image_tokenizer)
        pixel = pixel_sampler.choose(guide(scores), uniform[:, step, 1])
        codes = semantic * model.vocabulary.num_pixel_codes + pixel
        tokens.append(model.vocabulary.token_ids(codes))
        embeddings = model.embed(twice(tokens[-1]).unsqueeze(1), first_place=step)
        positions = positions[:, -1:] + 1
        attention_mask = torch.cat([attention_mask, torch.ones_like(attention_mask[:, :1])], dim=1)
    return torch.stack(tokens, dim=1)


def _stack_left_padded(
    first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Two left-padded (ids, mask) batches, one above the other at the greater length."""
    length = max(first[0].shape[1], second[0].shape[1])
    padded = [
        torch.nn.functional.pad(tensor, (length - tensor.shape[1], 0))
        for tensor in (first[0], second[0], first[1], second[1])
    ]
    return torch.cat(padded[:2]), torch.cat(padded[2:])
