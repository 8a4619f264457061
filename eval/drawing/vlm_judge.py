"""Judges that answer questions about a picture with probabilities.

A vision-language model of transformers, or the very model that drew, which is labelled: a model
that judges itself agrees with itself.
"""

from pathlib import Path
from typing import Protocol

import torch
from PIL import Image

from eval.measures.pretrained import frozen, load_pretrained, short_name
from runtime.errors import UserError

SELF = "self"
"""Name that asks for the drawing model as its own judge."""
INSTRUCTION = "Answer with one word."


class Judge(Protocol):
    """What a score by questions needs."""

    label: str
    """Stands beside every score."""

    def log_likelihood(self, image: Image.Image, question: str, answer: str) -> float:
        """Log-probability of an answer, in nats."""


def probability_of_yes(judge: Judge, image: Image.Image, question: str) -> float:
    """Between yes and no alone, in [0, 1]."""
    scores = [judge.log_likelihood(image, question, answer) for answer in ("yes", "no")]
    return float(torch.tensor(scores, dtype=torch.float64).softmax(0)[0])


def load_judge(name: str, model_dir: Path | str | None) -> Judge:
    """A judge by name.

    Args:
        name: "self", or hub name or folder of an image-text-to-text model.
        model_dir: the model that drew.

    Raises:
        UserError: if there is no such model.
    """
    if name != SELF:
        return VisionLanguageJudge(name)
    if model_dir is None:
        raise UserError("--judge self needs the model that drew: give --model.")
    return SelfJudge(model_dir)


class VisionLanguageJudge:
    """Any image-text-to-text model of transformers with a chat template."""

    def __init__(self, name: str):
        from transformers import AutoModelForImageTextToText, AutoProcessor

        mend = "give a vision-language model's folder or a hub name that can be downloaded, or self"
        classes = (AutoProcessor, AutoModelForImageTextToText)
        self.processor, model = load_pretrained("judge", name, mend, *classes)
        self.model = frozen(model)
        self.label = short_name(name)

    @torch.inference_mode()
    def log_likelihood(self, image: Image.Image, question: str, answer: str) -> float:
        content = [{"type": "image"}, {"type": "text", "text": f"{question} {INSTRUCTION}"}]
        prompt = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        inputs = self.processor(text=prompt, images=image.convert("RGB"), return_tensors="pt").to(
            self.model.device
        )
        # Tokens of the answer are put behind the prompt's, so that no merge reaches across.
        ending = self.processor.tokenizer(answer, add_special_tokens=False)["input_ids"]
        ids = torch.tensor([ending], device=self.model.device)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], ids], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        own = self.model(**inputs).logits[0, -len(ending) - 1 : -1].double().log_softmax(-1)
        return float(own.gather(-1, ids.T).sum())


class SelfJudge:
    """The model that drew."""

    def __init__(self, model_dir: Path | str):
        from mllm.serving.answering import Answerer

        self.answerer = Answerer.load(model_dir)
        self.label = f"{Path(model_dir)} itself (self-judged)"

    def log_likelihood(self, image: Image.Image, question: str, answer: str) -> float:
        prompt = self.answerer.processor.chat.question(question)
        tokens = self.answerer.image_tokens([image.convert("RGB")])
        return self.answerer.loglikelihood([prompt], [[tokens[0]]], [answer])[0].log_likelihood
