"""A loaded model that answers questions about images: one, a batch, or a list in batches.

Shapes: B prompts, L longest prompt, N positions of an image.
"""

import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from transformers import TextStreamer

from data_pipelines.images import resize_and_crop, to_tensor
from mllm.drawing.public_model import UnifiedForConditionalGeneration
from mllm.model.processing_unified import UnifiedProcessor
from mllm.saved.load import load_for_inference
from runtime.errors import UserError

REMEMBERED_IMAGES = 4096  # questions about one image often follow one another


@dataclass(frozen=True)
class Question:
    """What the model is asked: a prompt with N placeholders for each image, keys to read the images
    by, and texts whose likelihood is wanted, none where an answer is to be written."""

    prompt: Sequence[int]
    images: tuple[Hashable, ...] = ()
    options: tuple[str, ...] = ()


class Likelihood(NamedTuple):
    """How likely a given answer is: summed over its tokens, the end of the turn left out; their
    number; and whether every one is the likeliest at its position."""

    log_likelihood: float
    num_tokens: int
    is_greedy: bool


@dataclass(frozen=True)
class Answer:
    """What the model says to a `Question`: a written text, or the likelihoods of its options."""

    text: str = ""
    likelihoods: tuple[Likelihood, ...] = ()


class Answerer:
    """Answers greedily, and scores given answers by their likelihood, with a model in eval mode."""

    def __init__(self, model: UnifiedForConditionalGeneration, processor: UnifiedProcessor):
        self.model, self.processor = model, processor

    @classmethod
    def load(cls, folder: Path | str, device: str | None = None) -> "Answerer":
        """From the folder of a unified model; by default on a GPU where there is one."""
        return cls(*load_for_inference(folder, device))

    @property
    def context_length(self) -> int:
        """Most tokens that the model reads, images and answer included."""
        return self.model.config.context_length or sys.maxsize

    @torch.no_grad()
    def image_tokens(self, images: Sequence[Image.Image]) -> Tensor:
        """RGB pictures, scaled and cut at the centre → (images, N) token ids on the CPU."""
        size = self.model.config.image_tokenizer_config.image_size
        pixels = torch.stack([to_tensor(resize_and_crop(image, size)) for image in images])
        return self.model.get_image_tokens(pixels.to(self.model.device)).cpu()

    def prompt(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Token ids of a conversation that the assistant continues; see `ChatEncoder.prompt`."""
        return self.processor.chat.prompt(messages)

    def ask(
        self, images: Sequence[Image.Image], questions: Sequence[str], max_new_tokens: int = 16
    ) -> list[str]:
        """Greedy answers to one question about each RGB image, in one batch.

        Raises:
            UserError: as `answer`.
        """
        prompts = [self.processor.chat.question(question) for question in questions]
        return self.answer(prompts, [[one] for one in self.image_tokens(images)], max_new_tokens)

    def answer_list(
        self,
        questions: Sequence[Question],
        batches: Iterable[list[int]],
        read_images: Callable[[list[Any]], Sequence[Tensor]],
        max_new_tokens: int = 16,
        batch_size: int = 16,
        **sampling: Any,
    ) -> Iterator[tuple[list[int], list[Answer]]]:
        """Answer a list; yields each batch with its answers.

        Args:
            batches: indices of the questions that share a batch; see `plan_batches`.
            read_images: (N,) token ids for each of the keys that it is given; called with the
                images of a batch that were not among the last ones seen.
            max_new_tokens: longest written answer.
            batch_size: most options in a pass.
        """
        known: dict[Hashable, Tensor] = {}
        for batch in batches:
            asked = [questions[i] for i in batch]
            new = dict.fromkeys(key for q in asked for key in q.images if key not in known)
            if new:
                known |= zip(new, read_images(list(new)), strict=True)
            images = [[known[key] for key in q.images] for q in asked]
            yield batch, self._answer_batch(asked, images, max_new_tokens, batch_size, sampling)
            for key in list(known)[: max(0, len(known) - REMEMBERED_IMAGES)]:
                del known[key]

    def _answer_batch(
        self,
        asked: Sequence[Question],
        images: Sequence[Sequence[Tensor]],
        max_new_tokens: int,
        batch_size: int,
        sampling: dict[str, Any],
    ) -> list[Answer]:
        both = list(zip(asked, images, strict=True))
        written = [(one.prompt, own) for one, own in both if not one.options]
        texts: Iterator[str] = iter(())
        if written:
            prompts, shown = zip(*written, strict=True)
            texts = iter(self.answer(prompts, shown, max_new_tokens, **sampling))
        given = [(one.prompt, own, text) for one, own in both for text in one.options]
        likelihoods: list[Likelihood] = []
        for start in range(0, len(given), batch_size):
            part = given[start : start + batch_size]
            likelihoods += self.loglikelihood(*zip(*part, strict=True))
        found = iter(likelihoods)
        return [
            Answer(likelihoods=tuple(islice(found, len(one.options))))
            if one.options
            else Answer(next(texts))
            for one in asked
        ]

    @torch.no_grad()
    def answer(
        self,
        prompts: Sequence[Sequence[int]],
        images: Sequence[Sequence[Tensor]],
        max_new_tokens: int = 16,
        **options: Any,
    ) -> list[str]:
        """Answers of one batch, greedy unless asked otherwise.

        Args:
            prompts: token ids with N placeholders for each image.
            images: for each prompt, the (N,) token ids of its images in order.
            max_new_tokens: longest answer.
            options: further ones of transformers' `generate`, such as `do_sample`.

        Raises:
            UserError: if a prompt with its answer is longer than the model's context.
        """
        input_ids, mask = self._batch(prompts, images)
        self.check_length(input_ids.shape[1] + max_new_tokens)
        options = {"do_sample": False} | options
        token_ids = self.model.generate(
            input_ids=input_ids, attention_mask=mask, max_new_tokens=max_new_tokens, **options
        )
        return self.processor.answers(token_ids, input_ids.shape[1])

    def stream(self, prompt: list[int], images: Sequence[Tensor], max_new_tokens: int) -> str:
        """The answer to one prompt, written to standard output word by word meanwhile."""
        tokenizer = self.processor.tokenizer
        streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
        return self.answer([prompt], [images], max_new_tokens, streamer=streamer)[0]

    @torch.no_grad()
    def loglikelihood(
        self,
        prompts: Sequence[Sequence[int]],
        images: Sequence[Sequence[Tensor]],
        answers: Sequence[str],
    ) -> list[Likelihood]:
        """How likely each answer is after its prompt, among all texts; in one batch.

        Args:
            prompts: token ids with N placeholders for each image, one for each answer.
            images: as for `answer`.
            answers: texts of at least one token.

        Raises:
            UserError: as `answer`.
        """
        tokenizer = self.processor.tokenizer
        endings = tokenizer(list(answers), add_special_tokens=False)["input_ids"]
        if not all(endings):
            raise UserError("a given answer has no token; give texts that are not empty")
        whole = [[*prompt, *ending] for prompt, ending in zip(prompts, endings, strict=True)]
        input_ids, mask = self._batch(whole, images)
        self.check_length(input_ids.shape[1])
        longest = max(len(ending) for ending in endings)
        logits = self.model(
            input_ids=input_ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp_min(0),
            logits_to_keep=longest + 1,
        ).logits
        # Padding stands on the left, so each answer ends with its row. Its probability is among
        # text tokens alone, as in the loss.
        scores = logits[:, :-1, : self.model.vocabulary.offset].float().log_softmax(-1)
        likelihoods = []
        for row, ending in enumerate(endings):
            ids = torch.tensor(ending, device=scores.device)
            own = scores[row, -len(ending) :]
            chosen = own.gather(-1, ids.unsqueeze(-1)).squeeze(-1)
            greedy = bool((own.argmax(-1) == ids).all())
            likelihoods.append(Likelihood(float(chosen.double().sum()), len(ending), greedy))
        return likelihoods

    def _batch(
        self, prompts: Sequence[Sequence[int]], images: Sequence[Sequence[Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Left-padded (B, L) token ids with the images put in, and their mask."""
        inputs = self.processor.pad([list(prompt) for prompt in prompts])
        input_ids = inputs["input_ids"].to(self.model.device)
        is_placeholder = input_ids == self.model.config.image_token_id
        pictures = [tokens for group in images for tokens in group]
        if int(is_placeholder.sum()) != sum(len(tokens) for tokens in pictures):
            raise ValueError(f"{int(is_placeholder.sum())} places for {len(pictures)} images.")
        if pictures:
            input_ids = input_ids.masked_scatter(is_placeholder, torch.cat(pictures).to(input_ids))
        return input_ids, inputs["attention_mask"].to(self.model.device)

    def check_length(self, length: int) -> None:
        """Refuse a question that takes more tokens with its images and answer than the context."""
        if length > self.context_length:
            raise UserError(
                f"The question with its images and answer takes {length} tokens, and the model "
                f"reads at most {self.context_length}: shorten the question."
            )


def plan_batches(lengths: Sequence[int], batch_size: int, window: int = 1) -> list[list[int]]:
    """Indices of questions by batch.

    Args:
        lengths: of the prompts, in the order of the questions.
        batch_size: questions in a batch; the last one of a window may have fewer.
        window: batches among whose questions those of like length are put together. More than one
            computes less padding, and answers then come out of order.
    """
    batches: list[list[int]] = []
    size = window * batch_size
    for start in range(0, len(lengths), size):
        indices = list(range(start, min(start + size, len(lengths))))
        if window > 1:
            indices.sort(key=lambda i: lengths[i])
        batches += [indices[i : i + batch_size] for i in range(0, len(indices), batch_size)]
    return batches
