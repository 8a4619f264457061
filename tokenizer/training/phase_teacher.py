"""Phase `teacher`: a SigLIP model learns to match images and captions.

Needed only where no pre-trained encoder is at hand; the other phases take any encoder by name.
"""

import math
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import SiglipConfig, SiglipModel, SiglipTextConfig, SiglipVisionConfig

from data_pipelines.loading.dataset import PreparedDataset, num_of
from data_pipelines.text_tokenizer import train_text_tokenizer
from runtime.errors import UserError, says
from runtime.ranks import is_main_rank
from tokenizer.model.configuration_semhitok import MAX_LAYERS
from tokenizer.saved.model_folder import refuse_nonfinite, whole_folder
from tokenizer.training.memory import build_checked
from tokenizer.training.new_model import check_fields
from tokenizer.training.settings import TeacherPhaseSettings
from tokenizer.training.starts import start_from_cosines


def check_data(settings: TeacherPhaseSettings) -> None:
    """Refuse prepared data without captions, in a `UserError`."""
    if not num_of([settings.data], "captions"):
        raise UserError(
            f"{settings.data} has no captions, which the teacher learns from; prepare a source "
            f"with captions, or skip this phase and name a pre-trained encoder"
        )


class TeacherPhase(nn.Module):
    """Trains a `SiglipModel` with the sigmoid loss (arXiv 2303.15343, eq. 1)."""

    def __init__(self, settings: TeacherPhaseSettings):
        super().__init__()
        check_data(settings)
        captions: list[str] = []
        used: list[list[str]] = []  # the first caption of each image, if it has any
        for record in PreparedDataset(settings.data, images_only=True).texts():
            captions += record.captions
            used.append(list(record.captions[:1]))
        self.text_tokenizer = train_text_tokenizer(captions, settings.vocab_size)
        text = settings.text | {
            "vocab_size": len(self.text_tokenizer),
            "pad_token_id": self.text_tokenizer.pad_token_id,
            "bos_token_id": self.text_tokenizer.bos_token_id,
            "eos_token_id": self.text_tokenizer.eos_token_id,
        }
        self.model = _new_model(text, settings.vision)
        self.max_length = self.model.config.text_config.max_position_embeddings
        with torch.no_grad():
            # The paper's start: temperature 10, and a bias at which nearly every pair is a "no".
            self.model.logit_scale.fill_(math.log(10.0))
            self.model.logit_bias.fill_(-10.0)
        if settings.patch_embedding_start == "cosine":
            start_from_cosines(self.model.vision_model.embeddings.patch_embedding.weight)
        self._say_what_is_left_out(used)
        self.codebooks: Any = nn.ModuleList()
        self.image_size = self.model.config.vision_config.image_size

    def forward(self, batch: dict) -> dict[str, Tensor]:
        """Losses of {"images": (B, 3, H, W) in [-1, 1], "caption": B strings}."""
        captions = batch["caption"]
        # Equal captions are one text, and every image with that caption is a positive pair.
        texts = sorted(set(captions))
        padding: Any = {"padding": "max_length", "truncation": True, "max_length": self.max_length}
        tokens = self.text_tokenizer(texts, return_tensors="pt", **padding)
        device = batch["images"].device
        # No attention mask: SigLIP is trained on padded texts, and pools the last position.
        tokens = tokens["input_ids"].to(device)
        outputs = self.model(input_ids=tokens, pixel_values=batch["images"])
        logits = outputs.logits_per_image
        index = torch.tensor([texts.index(caption) for caption in captions], device=device)
        matches = F.one_hot(index, len(texts)) * 2 - 1
        loss = -F.logsigmoid(matches * logits).sum(-1).mean()
        accuracy = (logits.argmax(-1) == index).float().mean()
        return {"loss": loss, "batch_accuracy": accuracy.detach()}

    def _say_what_is_left_out(self, captions: list[list[str]]) -> None:
        """Count on stderr the images without a caption, and with a first one that is cut."""
        texts = Counter(caption[0] for caption in captions if caption)
        lengths = map(len, self.text_tokenizer(list(texts))["input_ids"])
        pairs = zip(texts.values(), lengths, strict=True)
        num_cut = sum(count for count, length in pairs if length > self.max_length)
        num_bare = sum(not caption for caption in captions)
        for number, what in (
            (num_bare, "have no caption, and learn an empty one"),
            (num_cut, f"have a caption of more than {self.max_length} tokens, which is cut"),
        ):
            if number and is_main_rank():
                print(f"{number:,} of {len(captions):,} images {what}", file=sys.stderr)

    def save(self, folder: Path) -> None:
        """Write the model and its caption vocabulary."""
        refuse_nonfinite(self.model, f"the model for {folder}")
        with whole_folder(folder) as unfinished:
            self.model.save_pretrained(unfinished)
            self.text_tokenizer.save_pretrained(unfinished)


def _new_model(text: dict, vision: dict) -> SiglipModel:
    """An untrained model, or a UserError where its sections do not fit."""
    sections = {"text": (text, SiglipTextConfig), "vision": (vision, SiglipVisionConfig)}
    for section, (fields, config_class) in sections.items():
        # transformers keeps unknown fields silently.
        check_fields(section, fields, config_class)
    try:
        config = SiglipConfig(text_config=text, vision_config=vision)
        size, patch_size = config.vision_config.image_size, config.vision_config.patch_size
        if size < patch_size or config.text_config.max_position_embeddings < 1:
            raise ValueError(f"{size} pixels hold no patch of {patch_size}, or texts no token")
        for part in (config.vision_config, config.text_config):
            if part.num_hidden_layers > MAX_LAYERS:
                raise ValueError(f"num_hidden_layers must be at most {MAX_LAYERS}")
        return build_checked(lambda: SiglipModel(config))
    except UserError:
        raise
    except Exception as error:  # strict dataclasses raise their own types
        raise UserError(f"the teacher's sections do not fit: {says(error)}") from error
