"""Processor of the unified model: prompts and images in, text and pictures out."""

from typing import Any

import torch
from PIL import Image
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoImageProcessor,
    AutoProcessor,
    BatchFeature,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from data_pipelines.images import to_pil
from mllm.model.chat_template import ChatEncoder
from mllm.model.configuration_unified import UnifiedConfig
from runtime.json_lines import first_given
from tokenizer.model.image_processing_semhitok import SemHiTokImageProcessor


class UnifiedProcessor(ProcessorMixin):
    """Builds the inputs of `UnifiedForConditionalGeneration` and reads its outputs.

    Args:
        image_processor: pixels to [-1, 1] at the image tokenizer's size.
        tokenizer: text tokenizer with a chat template and the image tokens.
        num_image_positions: N, placeholders per image.
    """

    def __init__(
        self,
        image_processor: SemHiTokImageProcessor,
        tokenizer: PreTrainedTokenizerBase,
        num_image_positions: int = 256,
        **_: object,
    ):
        self.num_image_positions = num_image_positions
        super().__init__(image_processor, tokenizer)

    @property
    def chat(self) -> ChatEncoder:
        """Renders chats for this model."""
        if not hasattr(self, "_chat"):
            self._chat = ChatEncoder(self.tokenizer, self.num_image_positions)
        return self._chat

    def __call__(
        self,
        images: Any = None,
        text: str | list[str] | None = None,
        videos: None = None,
        audio: None = None,
        **_: Any,
    ) -> BatchFeature:
        """Inputs of `generate` in the manner of transformers, whose pipelines call this.

        Args:
            images: one image or a list of them, in the order in which the texts show them.
            text: plain texts, each taken as what a user says (after the image, if there is one for
                each), or rendered chats with `<|image|>` where an image stands.
            videos, audio: must be None.

        Returns:
            `input_ids` and `attention_mask` (B, L), padded on the left; `pixel_values` of the
            images; without images also `unconditional_ids` and `unconditional_mask`, for drawing.
        """
        if videos is not None or audio is not None:
            raise ValueError("this model reads text and images, no video or audio")
        texts = [text] if isinstance(text, str) else list(text or [])
        if not texts:
            raise ValueError("the processor needs a text beside the images")
        loaded = self.image_processor.fetch_images(_flat(images))
        prompts = [self._prompt(one, bool(loaded)) for one in texts]
        if not loaded:
            return self._with_unconditional(prompts)
        pixels = self.image_processor(images=loaded, return_tensors="pt")["pixel_values"]
        return BatchFeature({**self.pad(prompts), "pixel_values": pixels})

    def _prompt(self, text: str, has_image: bool) -> list[int]:
        if self.chat.is_rendered(text):
            return self.chat.rendered(text)
        return self.chat.question(text) if has_image else self.chat.drawing(text)[:-1]

    def apply_chat_template(
        self, conversation: Any, chat_template: Any = None, **kwargs: Any
    ) -> Any:
        """As in transformers; contents may be texts, or lists of `text` and `image` parts."""
        chats = conversation if isinstance(conversation[0], list | tuple) else [conversation]
        images = [
            first_given(part, "image", "url", "path")
            for chat in chats
            for message in chat
            if not isinstance(message["content"], str)
            for part in message["content"]
            if part["type"] == "image"
        ]
        texts = [
            self.tokenizer.apply_chat_template(
                [{"role": m["role"], "content": self.chat.content(m["content"])} for m in chat],
                chat_template=chat_template,
                add_generation_prompt=kwargs.get("add_generation_prompt", False),
                continue_final_message=kwargs.get("continue_final_message", False),
                tokenize=False,
            )
            for chat in chats
        ]
        if not kwargs.get("tokenize", False):
            return texts if chats is conversation else texts[0]
        inputs = self(images=images or None, text=texts)
        return inputs if kwargs.get("return_dict", False) else inputs["input_ids"]

    def post_process_multimodal_output(
        self,
        generated_outputs: torch.Tensor,
        skip_special_tokens: bool = True,
        generation_mode: str | None = None,
        **_: Any,
    ) -> list[str] | list[Image.Image]:
        """Texts of (B, L) token ids that `generate` gave, or pictures of (B, 3, H, W) in [-1, 1] if
        `generation_mode` is "image"."""
        if generation_mode == "image":
            return self.pictures(generated_outputs.float().cpu())
        is_image = generated_outputs >= len(self.tokenizer)
        token_ids = generated_outputs.masked_fill(is_image, self.chat.image_id)
        texts: list[str] = self.tokenizer.batch_decode(
            token_ids, skip_special_tokens=skip_special_tokens
        )
        return texts

    def questions(self, images: list[Image.Image], questions: list[str]) -> BatchFeature:
        """Inputs of `generate` for one question about each image: `input_ids` and `attention_mask`
        (B, L), padded on the left, and `pixel_values`."""
        if len(images) != len(questions):
            raise ValueError(f"{len(images)} images for {len(questions)} questions")
        inputs = self.pad([self.chat.question(question) for question in questions])
        pixels = self.image_processor(images=images, return_tensors="pt")["pixel_values"]
        return BatchFeature({**inputs, "pixel_values": pixels})

    def drawings(self, prompts: list[str]) -> BatchFeature:
        """Inputs of `generate(generation_mode="image")`: `input_ids`, `attention_mask` (B, L) and,
        for guidance, `unconditional_ids`, `unconditional_mask` (B, L')."""
        return self._with_unconditional([self.chat.drawing(prompt) for prompt in prompts])

    def _with_unconditional(self, prompts: list[list[int]]) -> BatchFeature:
        without = self.pad([self.chat.drawing("")] * len(prompts))
        ids, mask = without["input_ids"], without["attention_mask"]
        inputs = self.pad(prompts)
        return BatchFeature({**inputs, "unconditional_ids": ids, "unconditional_mask": mask})

    def pad(self, token_ids: list[list[int]]) -> dict[str, torch.Tensor]:
        """Left-pad lists of ids to `input_ids` and `attention_mask` (B, L)."""
        rows = [torch.tensor(ids, dtype=torch.long) for ids in token_ids]
        ones = [torch.ones_like(row) for row in rows]
        return {
            "input_ids": pad_sequence(rows, True, self.tokenizer.pad_token_id, "left"),
            "attention_mask": pad_sequence(ones, True, 0, "left"),
        }

    def answers(self, token_ids: torch.Tensor, prompt_length: int) -> list[str]:
        """Texts of generated (B, L) ids, without the prompt."""
        texts = self.tokenizer.batch_decode(token_ids[:, prompt_length:], skip_special_tokens=True)
        return [text.strip() for text in texts]

    def pictures(self, images: torch.Tensor) -> list[Image.Image]:
        """(B, 3, H, W) in [-1, 1] → PIL images."""
        return [to_pil(image) for image in images]


def _flat(images: Any) -> list[Any]:
    if images is None:
        return []
    if not isinstance(images, list | tuple):
        return [images]
    return [image for part in images for image in _flat(part)]


# `from_pretrained` finds the image processor through this, by the class name in the folder.
AutoImageProcessor.register(UnifiedConfig, image_processor_classes={"pil": SemHiTokImageProcessor})
AutoProcessor.register(UnifiedConfig, UnifiedProcessor)
