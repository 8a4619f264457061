"""A judge that answers questions about a picture with probabilities."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from eval.measures.pretrained import frozen, load_pretrained, short_name
from runtime.errors import UserError

INSTRUCTION = "Answer with one word."


class VisionLanguageJudge:
    """Any image-text-to-text model of transformers with a chat template, by hub name or folder.

    Its `label` stands beside every score.

    Raises:
        UserError: if there is no such model.
    """

    def __init__(self, name: str):
        hint = "give a vision-language model's folder or a hub name that can be downloaded"
        classes = (AutoProcessor, AutoModelForImageTextToText)
        self.processor, model = load_pretrained("judge", name, hint, *classes)
        self.model = frozen(model)
        self.label = short_name(name)
        text = model.config.get_text_config()
        self.context_length: int | None = getattr(text, "max_position_embeddings", None)

    def check(self, questions: Sequence[str]) -> None:
        """Refuse, before the work, questions that the model cannot read with a small picture.

        Raises:
            UserError: if the longest one is too long.
        """
        if longest := max(questions, key=len, default=""):
            self._inputs(Image.new("RGB", (64, 64)), longest, "yes")

    @torch.inference_mode()
    def loglikelihood(self, image: Image.Image, question: str, answer: str) -> float:
        """Log-probability of an answer, in nats.

        Raises:
            UserError: if question, picture and answer are longer than the model reads.
        """
        inputs, ids = self._inputs(image, question, answer)
        own = self.model(**inputs).logits[0, -len(ids) - 1 : -1].double().log_softmax(-1)
        return float(own.gather(-1, ids.unsqueeze(-1)).sum())

    def _inputs(self, image: Image.Image, question: str, answer: str) -> tuple[Any, Tensor]:
        """What the model reads, one conversation without padding, and the answer's token ids."""
        content = [{"type": "image"}, {"type": "text", "text": f"{question} {INSTRUCTION}"}]
        prompt = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        inputs = self.processor(text=prompt, images=image.convert("RGB"), return_tensors="pt").to(
            self.model.device
        )
        # Tokens of the answer are put behind the prompt's, so that no merge reaches across.
        ending = self.processor.tokenizer(answer, add_special_tokens=False)["input_ids"]
        ids = torch.tensor(ending, device=self.model.device)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], ids[None]], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        length = inputs["input_ids"].shape[1]
        if self.context_length is not None and length > self.context_length:
            raise UserError(
                f"The question {question[:60]!r} with its picture takes {length:,} tokens, and "
                f"{self.label} reads at most {self.context_length:,}: name another --judge."
            )
        return inputs, ids

    def probability_of_yes(self, image: Image.Image, question: str) -> float:
        """Between yes and no alone, in [0, 1]."""
        scores = [self.loglikelihood(image, question, answer) for answer in ("yes", "no")]
        return float(torch.tensor(scores, dtype=torch.float64).softmax(0)[0])
