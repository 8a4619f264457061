"""Processor of the unified model: prompts and images in, text and pictures out."""

import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoProcessor,
    BatchFeature,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from data_pipelines.images import to_pil
from tokenizer.image_processing_semhitok import SemHiTokImageProcessor

from .chat import ChatEncoder
from .configuration_unified import UnifiedConfig


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

    def questions(self, images: list[Image.Image], questions: list[str]) -> BatchFeature:
        """Inputs of `generate` for one question about each image.

        Args:
            images: PIL images.
            questions: as many texts.

        Returns:
            `input_ids` and `attention_mask` (B, L), padded on the left, and `pixel_values`.
        """
        if len(images) != len(questions):
            raise ValueError(f"{len(images)} images for {len(questions)} questions.")
        inputs = self.pad([self.chat.question(question) for question in questions])
        pixels = self.image_processor(images=images, return_tensors="pt")["pixel_values"]
        return BatchFeature({**inputs, "pixel_values": pixels})

    def drawings(self, prompts: list[str]) -> BatchFeature:
        """Inputs of `generate(generation_mode="image")`.

        Returns:
            `input_ids`, `attention_mask` (B, L) and, for guidance, `unconditional_ids`,
            `unconditional_mask` (B, L').
        """
        inputs = self.pad([self.chat.drawing(prompt) for prompt in prompts])
        without = self.pad([self.chat.drawing("")] * len(prompts))
        return BatchFeature(
            {
                **inputs,
                "unconditional_ids": without["input_ids"],
                "unconditional_mask": without["attention_mask"],
            }
        )

    def pad(self, token_ids: list[list[int]]) -> dict[str, torch.Tensor]:
        """Left-pad lists of ids to `input_ids` and `attention_mask` (B, L)."""
        length = max(len(ids) for ids in token_ids)
        pad_id = self.tokenizer.pad_token_id
        return {
            "input_ids": torch.tensor([[pad_id] * (length - len(i)) + i for i in token_ids]),
            "attention_mask": torch.tensor(
                [[0] * (length - len(i)) + [1] * len(i) for i in token_ids]
            ),
        }

    def answers(self, token_ids: torch.Tensor, prompt_length: int) -> list[str]:
        """Texts of generated (B, L) ids, without the prompt."""
        texts = self.tokenizer.batch_decode(token_ids[:, prompt_length:], skip_special_tokens=True)
        return [text.strip() for text in texts]

    def pictures(self, images: torch.Tensor) -> list[Image.Image]:
        """(B, 3, H, W) in [-1, 1] → PIL images."""
        return [to_pil(image) for image in images]


# `from_pretrained` finds the image processor through this, by the class name in the folder.
AutoImageProcessor.register(UnifiedConfig, image_processor_classes={"pil": SemHiTokImageProcessor})
AutoProcessor.register(UnifiedConfig, UnifiedProcessor)
