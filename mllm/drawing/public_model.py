"""The public model class: the network of `mllm.model`, which answers and draws in `generate`."""

from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForMultimodalLM, GenerationMixin

from mllm.drawing.best_of import draw_best
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
        sampler: Sampler | None = None,
        end_of_image: bool = False,
        **options: Any,
    ) -> Tensor:
        """`draw_best` with the words that transformers has.

        Args: as of `draw_best`, and
            end_of_image: close each image with the end-of-image token.
            options: fields of `Sampler`, which override those of `sampler`; `do_sample=False` draws
                greedily. Options of text generation, such as `max_new_tokens`, change nothing.

        Returns:
            (B, N) image token ids, or (B, N + 1).
        """
        sampler = sampler or model_sampler(self.config.image_sampler)
        changes = {name: options.pop(name) for name in Sampler.model_fields if name in options}
        if options.pop("do_sample", True) is False:
            changes |= {"temperature": 0.0, "pixel_temperature": None}
        of_drawing = (*OF_IMAGES, "seeds", "batch_size")
        known = {name: options.pop(name) for name in of_drawing if name in options}
        if unknown := options.keys() - OF_TEXT:
            raise TypeError(f"generate(generation_mode='image') has no argument {min(unknown)!r}.")
        begin = input_ids.new_full((len(input_ids), 1), self.config.begin_of_image_token_id)
        if not bool((input_ids[:, -1:] == begin).all()):  # a prompt for text: the image begins here
            input_ids = torch.cat([input_ids, begin], dim=1)
            if attention_mask is not None:
                attention_mask = torch.cat([attention_mask, torch.ones_like(begin)], dim=1)
        sampler = Sampler(**(sampler.model_dump() | changes))
        token_ids = draw_best(self, input_ids, attention_mask, sampler=sampler, **known)
        if not end_of_image:
            return token_ids
        end = token_ids.new_full((len(token_ids), 1), self.config.end_of_image_token_id)
        return torch.cat([token_ids, end], dim=1)


AutoModelForMultimodalLM.register(UnifiedConfig, UnifiedForConditionalGeneration)
