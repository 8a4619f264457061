"""A judge that answers questions about a picture with probabilities."""

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from eval.measures.pretrained import frozen, load_pretrained, short_name

INSTRUCTION = "Answer with one word."


class VisionLanguageJudge:
    """Any image-text-to-text model of transformers with a chat template.

    Args:
        name: hub name or folder.

    Attributes:
        label: stands beside every score.

    Raises:
        UserError: if there is no such model.
    """

    def __init__(self, name: str):
        hint = "give a vision-language model's folder or a hub name that can be downloaded"
        classes = (AutoProcessor, AutoModelForImageTextToText)
        self.processor, model = load_pretrained("judge", name, hint, *classes)
        self.model = frozen(model)
        self.label = short_name(name)

    @torch.inference_mode()
    def loglikelihood(self, image: Image.Image, question: str, answer: str) -> float:
        """Log-probability of an answer, in nats."""
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

    def probability_of_yes(self, image: Image.Image, question: str) -> float:
        """Between yes and no alone, in [0, 1]."""
        scores = [self.loglikelihood(image, question, answer) for answer in ("yes", "no")]
        return float(torch.tensor(scores, dtype=torch.float64).softmax(0)[0])
