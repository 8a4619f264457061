"""CLIP by name or folder: how well an image fits its prompt, and which colour a crop has.

Shapes: B images, D features.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import AutoModel, AutoProcessor

from eval.drawing.geneval_rule import COLOURS, Detection
from eval.measures.pretrained import frozen, load_pretrained, short_name
from runtime.errors import UserError

CLIPSCORE_RULE = "mean over images of 100 · max(cos, 0), as torchmetrics has it"
BATCH = 32  # images that CLIP looks at together
NO_LIMIT = 10**9  # above any length; tokenizers without a limit say 10³⁰
BACKGROUND = "#999"  # what GenEval paints over everything that is not the object


class Clip:
    """A CLIP with its processor, by hub name or folder; `text_length` tokens are all it reads.

    Raises:
        UserError: if there is no such model, or it does not embed both images and texts.
    """

    def __init__(self, name: str):
        hint = "give a CLIP's folder, with its processor, or a hub name that can be downloaded"
        model, self.processor = load_pretrained("CLIP", name, hint, AutoModel, AutoProcessor)
        if not hasattr(model, "get_text_features") or not hasattr(self.processor, "tokenizer"):
            raise UserError(f"{name!r}, a {type(model).__name__}, reads no text: name a CLIP.")
        self.model = frozen(model)
        self.device = self.model.device
        self.label = short_name(name)
        # A tokenizer may know no limit, but the text model's positions end somewhere.
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.text_length = min(self.processor.tokenizer.model_max_length, positions or NO_LIMIT)
        # SigLIP was trained on texts padded to their limit, without an attention mask over them.
        self.is_siglip = "siglip" in model.config.model_type

    @torch.inference_mode()
    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        """(B, D) of length 1, on the CPU."""
        parts = []
        for start in range(0, len(images), BATCH):
            rgb = [image.convert("RGB") for image in images[start : start + BATCH]]
            pixels = self.processor(images=rgb, return_tensors="pt")["pixel_values"]
            found = self.model.get_image_features(pixel_values=pixels.to(self.device))
            parts.append(F.normalize(_tensor(found).float(), dim=-1).cpu())
        return torch.cat(parts)

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """(B, D) of length 1, on the CPU; texts are cut at `text_length`."""
        is_limited = self.text_length < NO_LIMIT
        inputs = self.processor(
            text=list(texts),
            return_tensors="pt",
            padding="max_length" if self.is_siglip else True,
            truncation=is_limited,
            max_length=self.text_length if is_limited else None,
        )
        names = ("input_ids",) if self.is_siglip else ("input_ids", "attention_mask")
        inputs = {name: inputs[name].to(self.device) for name in names if name in inputs}
        return F.normalize(_tensor(self.model.get_text_features(**inputs)).float(), dim=-1).cpu()

    def is_cut(self, text: str) -> bool:
        """Whether a text is longer than the model reads."""
        return len(self.processor.tokenizer(text)["input_ids"]) > self.text_length

    def scores(self, images: Sequence[Image.Image], texts: Sequence[str]) -> list[float]:
        """CLIPScore of each image with its text, in [0, 100]."""
        cosines = (self.embed_images(images) * self.embed_texts(texts)).sum(-1)
        return (100 * cosines.clamp_min(0)).tolist()


class ColourNamer:
    """GenEval's colour check: the object's crop on grey, against three sentences a colour."""

    def __init__(self, clip: Clip):
        self.clip = clip
        self._classifier = cache(self._make_classifier)

    def __call__(self, image: Image.Image, detection: Detection) -> str:
        """The likeliest of `COLOURS`."""
        crop = object_crop(image, detection)
        similarity = self.clip.embed_images([crop]) @ self._classifier(detection.label).T
        return COLOURS[int(similarity.argmax())]

    def _make_classifier(self, label: str) -> Tensor:
        """(10, D): for each colour the mean of its sentences' embeddings, of length 1."""
        rows = []
        for colour in COLOURS:
            shown = (f"{colour} {label}", f"{colour}-colored {label}", f"{colour} object")
            sentences = [f"a photo of a {what}" for what in shown]
            rows.append(F.normalize(self.clip.embed_texts(sentences).mean(0), dim=-1))
        return torch.stack(rows)


def object_crop(image: Image.Image, detection: Detection) -> Image.Image:
    """The object's box with all else painted grey, where there is a mask to tell it from."""
    image = image.convert("RGB")
    if detection.mask is not None:
        blank = Image.new("RGB", image.size, BACKGROUND)
        mask = Image.fromarray(np.asarray(detection.mask, dtype=np.uint8) * 255)
        image = Image.composite(image, blank, mask)
    left, top, right, bottom = (round(side) for side in detection.box)
    return image.crop((left, top, max(right, left + 1), max(bottom, top + 1)))


def _tensor(found: Any) -> Tensor:
    return found if isinstance(found, Tensor) else found.pooler_output
