"""A loaded model that answers questions and weighs given answers, in batches.

Shapes: B prompts, L longest prompt, N positions of an image.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from data_pipelines.images import resize_and_crop, to_tensor
from mllm.drawing.public_model import UnifiedForConditionalGeneration
from mllm.model.processing_unified import UnifiedProcessor
from mllm.saved.load import load_for_inference
from runtime.errors import UserError


@dataclass(frozen=True)
class Weighed:
    """How likely a given answer is."""

    log_likelihood: float
    """Sum over its tokens, the end of the turn left out."""
    num_tokens: int
    """Its length."""
    is_greedy: bool
    """Whether every token is the likeliest at its place."""


class Answerer:
    """Answers greedily, and scores answers by their likelihood.

    Args:
        model: in eval mode.
        processor: of the same folder.
    """

    def __init__(self, model: UnifiedForConditionalGeneration, processor: UnifiedProcessor):
        self.model, self.processor = model, processor

    @classmethod
    def load(cls, folder: Path | str, device: str | None = None) -> "Answerer":
        """From a saved unified model.

        Args:
            folder: of the model.
            device: "cpu", "cuda" or such; by default a GPU where there is one.

        Raises:
            UserError: if the folder holds no whole model.
        """
        return cls(*load_for_inference(folder, device))

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return torch.device(self.model.device)

    @property
    def image_size(self) -> int:
        """Pixels of a side that the image tokenizer takes."""
        size: int = self.model.config.image_tokenizer_config.image_size
        return size

    @property
    def context_length(self) -> int:
        """Most tokens that the model reads, images and answer included."""
        return self.model.config.context_length or sys.maxsize

    @torch.no_grad()
    def image_tokens(self, images: Sequence[Image.Image]) -> Tensor:
        """RGB pictures, scaled and cut at the centre → (images, N) token ids on the CPU."""
        size = self.image_size
        pixels = torch.stack([to_tensor(resize_and_crop(image, size)) for image in images])
        return self.model.get_image_tokens(pixels.to(self.device)).cpu()

    def ask(
        self,
        images: Sequence[Image.Image],
        questions: Sequence[str],
        max_new_tokens: int = 16,
    ) -> list[str]:
        """Greedy answers to one question about each RGB image.

        Raises:
            UserError: as `answer`.
        """
        prompts = [self.processor.chat.question(question) for question in questions]
        tokens = [[one] for one in self.image_tokens(images)]
        return self.answer(prompts, tokens, max_new_tokens)

    def prompt(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Token ids of a conversation that the assistant goes on with; see `ChatEncoder.prompt`."""
        return self.processor.chat.prompt(messages)

    @torch.no_grad()
    def answer(
        self,
        prompts: Sequence[list[int]],
        images: Sequence[Sequence[Tensor]],
        max_new_tokens: int = 16,
        streamer: Any = None,
        do_sample: bool = False,
        **sampling: Any,
    ) -> list[str]:
        """Answers, greedy unless asked otherwise.

        Args:
            prompts: token ids with N placeholders for each image.
            images: for each prompt, the (N,) token ids of its images in order.
            max_new_tokens: longest answer.
            streamer: of transformers, told of the tokens of one prompt as they come.
            do_sample: draw the tokens by chance.
            sampling: further settings of transformers' `generate`, such as `temperature`.

        Raises:
            UserError: if a prompt with its answer is longer than the model's context.
        """
        input_ids, mask = self._batch(prompts, images)
        self.check_length(input_ids.shape[1] + max_new_tokens)
        token_ids = self.model.generate(
            input_ids=input_ids,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            do_sample=do_sample,
            streamer=streamer,
            **sampling,
        )
        return self.processor.answers(token_ids, input_ids.shape[1])

    @torch.no_grad()
    def weigh(
        self,
        prompts: Sequence[list[int]],
        images: Sequence[Sequence[Tensor]],
        answers: Sequence[str],
    ) -> list[Weighed]:
        """How likely each answer is after its prompt, among all texts.

        Args:
            prompts: token ids with N placeholders for each image, one for each answer.
            images: as for `answer`.
            answers: texts of at least one token.

        Raises:
            UserError: if a prompt with its answer is longer than the model's context.
        """
        tokenizer = self.processor.tokenizer
        endings = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in answers]
        if not all(endings):
            raise UserError("an answer to weigh has no token; give texts that are not empty")
        whole = [prompt + ending for prompt, ending in zip(prompts, endings, strict=True)]
        input_ids, mask = self._batch(whole, images)
        self.check_length(input_ids.shape[1])
        longest = max(len(ending) for ending in endings)
        logits = self.model(
            input_ids=input_ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp_min(0),
            logits_to_keep=longest + 1,
        ).logits
        # Padding stands on the left: the last places of every row are its answer's. Texts are
        # weighed among text tokens alone, as the loss has it.
        scores = logits[:, :-1, : self.model.vocabulary.offset].float().log_softmax(-1)
        weighed = []
        for row, ending in enumerate(endings):
            ids = torch.tensor(ending, device=scores.device)
            own = scores[row, -len(ending) :]
            chosen = own.gather(-1, ids.unsqueeze(-1)).squeeze(-1)
            greedy = bool((own.argmax(-1) == ids).all())
            weighed.append(Weighed(float(chosen.double().sum()), len(ending), greedy))
        return weighed

    def _batch(
        self, prompts: Sequence[list[int]], images: Sequence[Sequence[Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Left-padded (B, L) token ids with the images put in, and their mask."""
        inputs = self.processor.pad(list(prompts))
        input_ids = inputs["input_ids"].to(self.device)
        places = input_ids == self.model.config.image_token_id
        pictures = [tokens for group in images for tokens in group]
        if int(places.sum()) != sum(len(tokens) for tokens in pictures):
            raise ValueError(f"{int(places.sum())} places for {len(pictures)} images.")
        if pictures:
            tokens = torch.cat(pictures).to(input_ids)
            input_ids = input_ids.masked_scatter(places, tokens)
        return input_ids, inputs["attention_mask"].to(self.device)

    def check_length(self, length: int) -> None:
        """Refuse so many tokens, of a question with its images and answer, if they are too many.

        Raises:
            UserError: then.
        """
        if length > self.context_length:
            raise UserError(
                f"The question with its images and answer takes {length} tokens, and the model "
                f"reads at most {self.context_length}: shorten the question."
            )
