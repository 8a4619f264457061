"""Phase `semantic`: codes from which frozen teachers' patch features can be predicted (VQ-KD).

The first teacher is what the semantic encoder reads and what a released model carries. An
auxiliary one, a DINO beside a CLIP, is a target only: the same codes must predict its patch
features too, through a head of its own, which keeps in the codes what the first alone would drop
(Rosetta, CVPR 2026). It costs nothing after training.

Shapes: B batch, N = h·w image positions (row-major), D width of the semantic decoder.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenizer.codebooks.training import CodebookTraining
from tokenizer.model.layers import feature_head
from tokenizer.model.patch_features import patch_features
from tokenizer.saved.encoders import HALF, check_teacher, load_teacher, normalisation
from tokenizer.training.new_model import build_model, refuse_flat, train_only
from tokenizer.training.settings import (
    AuxiliaryTeacherSettings,
    DistillationPhaseSettings,
    SemanticPhaseSettings,
)


class SemanticPhase(nn.Module):
    """Trains semantic encoder, codebook and decoder; the teachers are frozen."""

    def __init__(self, settings: SemanticPhaseSettings):
        super().__init__()
        self.settings = settings
        self.model = build_model(settings.teacher, settings.model)
        refuse_flat(self.model, "semantic")
        train_only(self.model, "semantic_encoder", "semantic_decoder")
        self.auxiliary_teachers = nn.ModuleList(
            AuxiliaryTeacher(auxiliary, self.model.config.semantic_hidden_size)
            for auxiliary in settings.auxiliary_teachers
        )
        codebook = self.model.semantic_codebook
        training = CodebookTraining("semantic", codebook, settings.codebook, settings.training.seed)
        self.codebooks: Any = nn.ModuleList([training])
        self.image_size = self.model.config.image_size

    @torch.no_grad()
    def start(self, batches: Iterable[Tensor]) -> None:
        """Start the codes by k-means over batches of (B, 3, H, W) images."""
        model = self.model
        vectors = [
            model.semantic_vectors(model.teacher_features(images), model.grid(images))
            for images in batches
        ]
        self.codebooks[0].start(torch.cat(vectors))

    def forward(self, batch: dict) -> dict[str, Tensor]:
        images = batch["images"]
        grid = self.model.grid(images)
        target = self.model.teacher_features(images)
        vectors = self.model.semantic_vectors(target, grid)
        quantized, quantizer_losses = self.codebooks[0](vectors)
        hidden = self.model.semantic_decoder["trunk"](quantized.vectors, grid)
        features = self.model.semantic_decoder["head"](hidden)
        losses = distillation_loss(self.settings, features, target)
        for number, teacher in enumerate(self.auxiliary_teachers, start=2):
            auxiliary = teacher(self.settings, hidden.unflatten(1, grid), images)
            losses["loss"] = losses["loss"] + auxiliary.pop("loss")
            losses |= {f"{name}_{number}": value for name, value in auxiliary.items()}
        return losses | quantizer_losses | {"loss": losses["loss"] + quantizer_losses["loss"]}


def distillation_loss(
    settings: DistillationPhaseSettings, features: Tensor, target: Tensor
) -> dict[str, Tensor]:
    """Weighted sum and terms, for predicted and the teacher's own features (B, N, D)."""
    cosine = 1 - F.cosine_similarity(features, target, dim=-1).mean()
    l1 = F.l1_loss(features, target)
    return {
        "loss": settings.cosine_weight * cosine + settings.l1_weight * l1,
        "cosine_loss": cosine.detach(),
        "l1_loss": l1.detach(),
    }


class AuxiliaryTeacher(nn.Module):
    """A frozen encoder and the trained head that predicts its features from the codes.

    The head reads the semantic decoder's trunk of this width, and is no part of the released model.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, settings: AuxiliaryTeacherSettings, width: int):
        super().__init__()
        self.settings = settings
        self.teacher = load_teacher(settings.teacher, settings.dtype)
        check_teacher(settings.teacher, self.teacher, settings.layer)
        self.head = feature_head(width, width, self.teacher.config.hidden_size)
        mean, std = normalisation(settings.teacher, default=HALF)
        for name, values in (("mean", settings.mean or mean), ("std", settings.std or std)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> "AuxiliaryTeacher":
        """The frozen encoder stays in eval mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    @torch.no_grad()
    def target(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """Patch features (B, N, D_teacher) of (B, 3, H, W) images in [-1, 1].

        An encoder with another patch size sees the images scaled so that its patches are the
        tokenizer's: 14-pixel patches of 224² lie on the 16×16 grid of 256².
        """
        size = tuple(self.teacher.config.patch_size * number for number in grid)
        if tuple(images.shape[-2:]) != size:
            images = F.interpolate(images, size=size, mode="bicubic", antialias=True)
        pixels = ((images + 1) / 2 - self.mean) / self.std
        return patch_features(self.teacher, pixels, self.settings.layer)

    def forward(
        self, settings: DistillationPhaseSettings, hidden: Tensor, images: Tensor
    ) -> dict[str, Tensor]:
        """`distillation_loss` from the semantic decoder's (B, h, w, D), its sum weighted."""
        target = self.target(images, (hidden.shape[1], hidden.shape[2]))
        losses = distillation_loss(settings, self.head(hidden.flatten(1, 2)), target)
        losses["loss"] = self.settings.weight * losses["loss"]
        return losses
