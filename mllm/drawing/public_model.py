"""The public model class: the network of `mllm.model`, which answers and draws in `generate`."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForMultimodalLM, GenerationMixin

from mllm.drawing.best_of import draw_best_of
from mllm.drawing.engine import DrawingEngine
from mllm.drawing.requests import ImageJob
from mllm.model.configuration_unified import UnifiedConfig
from mllm.model.modeling_unified import UnifiedModel
from mllm.model.sampler import Sampler, model_sampler

# What transformers' pipelines give every model that generates.
OF_TEXT = {
    "generation_config", "max_new_tokens", "max_length", "min_new_tokens", "tokenizer",
    "assistant_model", "assistant_tokenizer", "use_cache", "pixel_values",
    "return_dict_in_generate",
}  # fmt: skip
OF_IMAGES = ("unconditional_ids", "unconditional_mask")


class UnifiedForConditionalGeneration(UnifiedModel, GenerationMixin):
    """Answers questions about images in text, and draws images."""

    @torch.no_grad()
    def generate(
        self, inputs: Tensor | None = None, generation_mode: str = "text", **kwargs: Any
    ) -> Any:
        """Answer in text, or draw.

        Args:
            inputs: (B, L) prompt token ids; `input_ids=` works too.
            generation_mode: "text" for transformers' own `generate`; "image" for exactly N image
                tokens a prompt, with the arguments of `draw_images`.

        Returns:
            "text": (B, L + new) token ids. "image": (B, N) image token ids; with
            `end_of_image=True` (B, N + 1), closed by the end-of-image token.
        """
        input_ids = inputs if inputs is not None else kwargs.pop("input_ids", None)
        if generation_mode == "image":
            assert input_ids is not None
            return self.draw_images(input_ids, **kwargs)
        if generation_mode != "text":
            raise ValueError(f"generation_mode must be 'text' or 'image', not {generation_mode!r}.")
        for name in OF_IMAGES:
            kwargs.pop(name, None)
        pixel_values = kwargs.pop("pixel_values", None)
        if pixel_values is not None:
            assert input_ids is not None
            input_ids = self.fill_image_tokens(input_ids, pixel_values)
        return super().generate(inputs=input_ids, **kwargs)

    def draw_images(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        unconditional_ids: Tensor | None = None,
        unconditional_mask: Tensor | None = None,
        seeds: list[int] | None = None,
        sampler: Sampler | None = None,
        batch_size: int = 64,
        end_of_image: bool = False,
        **options: Any,
    ) -> Tensor:
        """Draw one image for each prompt, the best of `sampler.num_candidates`.

        Args:
            input_ids: (B, L) prompts, padded on the left; a begin-of-image token is put behind
                those that do not end in one.
            attention_mask: (B, L), 0 at padding.
            unconditional_ids: (B, L') the same without a prompt, or with a negative one; needed
                unless the guidance scale is 1 and there is one candidate.
            unconditional_mask: (B, L').
            seeds: one an image; 0, 1, 2, … by default.
            sampler: by default the one in the model's config.
            batch_size: the most images, candidates among them, that are drawn together.
            end_of_image: close each image with the end-of-image token.
            options: fields of `Sampler`, which override those of `sampler`; `do_sample=False` draws
                greedily. Options of text generation, such as `max_new_tokens`, change nothing.

        Returns:
            (B, N) image token ids, or (B, N + 1).

        Raises:
            ValueError: if `unconditional_ids` are needed and missing.
        """
        sampler = sampler or model_sampler(self.config.image_sampler)
        changes = {name: options.pop(name) for name in Sampler.model_fields if name in options}
        if options.pop("do_sample", True) is False:
            changes |= {"temperature": 0.0, "pixel_temperature": None}
        if unknown := options.keys() - OF_TEXT:
            raise TypeError(f"generate(generation_mode='image') has no argument {min(unknown)!r}.")
        sampler = Sampler(**(sampler.model_dump() | changes))
        begin = (self.config.begin_of_image_token_id,)
        prompts = _unpadded(input_ids, attention_mask)  # without `begin` they were made for text
        prompts = [prompt if prompt[-1:] == begin else prompt + begin for prompt in prompts]
        negatives: list[tuple[int, ...] | None] = [None] * len(prompts)
        if unconditional_ids is not None:
            negatives = [*_unpadded(unconditional_ids, unconditional_mask)]
        each = zip(prompts, negatives, seeds or range(len(prompts)), strict=True)
        jobs = [ImageJob(*job) for job in each]
        engine = DrawingEngine(self, sampler, min(batch_size, len(jobs) * sampler.num_candidates))
        codes = dict(draw_best_of(engine, jobs))
        drawn = torch.stack([codes[number] for number in range(len(jobs))])
        token_ids = self.vocabulary.token_ids(drawn).to(input_ids.device)
        end = self.config.end_of_image_token_id
        return F.pad(token_ids, (0, 1), value=end) if end_of_image else token_ids


def _unpadded(input_ids: Tensor, mask: Tensor | None) -> list[tuple[int, ...]]:
    kept = torch.ones_like(input_ids) if mask is None else mask
    return [tuple(ids[keep.bool()].tolist()) for ids, keep in zip(input_ids, kept, strict=True)]


AutoModelForMultimodalLM.register(UnifiedConfig, UnifiedForConditionalGeneration)
