"""What the semantic codes learn from: the teacher's patch features, and those of further teachers.

The first teacher is what the semantic encoder reads and what a released model carries. A further
one, a DINO beside a CLIP, is a target only: the same codes must predict its patch features too,
through a head of its own, which keeps in the codes what the first alone would let go (Rosetta,
CVPR 2026). It costs nothing once trained.

Shapes: B batch, N = h·w image positions (row-major), D width of the semantic decoder.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from runtime.errors import UserError
from tokenizer.model.layers import feature_head
from tokenizer.model.patch_features import patch_features
from tokenizer.training.settings import (
    FurtherTeacherConfig,
    JointPhaseConfig,
    SemanticPhaseConfig,
)
from tokenizer.training.teacher import check_teacher, load_teacher, normalisation


def distillation_loss(
    config: SemanticPhaseConfig | JointPhaseConfig, features: Tensor, target: Tensor
) -> dict[str, Tensor]:
    """Weighted sum and terms, for predicted and the teacher's own features (B, N, D)."""
    cosine = 1 - F.cosine_similarity(features, target, dim=-1).mean()
    l1 = F.l1_loss(features, target)
    return {
        "loss": config.cosine_weight * cosine + config.l1_weight * l1,
        "cosine_loss": cosine.detach(),
        "l1_loss": l1.detach(),
    }


class FurtherTeacher(nn.Module):
    """A frozen encoder and the trained head that predicts its features from the codes.

    Args:
        config: which encoder.
        width: D of the semantic decoder's trunk, which the head reads.

    Attributes:
        teacher: frozen, in the dtype asked for.
        head: trained; not part of the released model.
    """

    def __init__(self, config: FurtherTeacherConfig, width: int):
        super().__init__()
        self.config = config
        self.teacher = load_teacher(config.teacher, config.dtype)
        check_teacher(config.teacher, self.teacher, config.layer)
        self.head = feature_head(width, width, self.teacher.config.hidden_size)
        found = normalisation(config.teacher) or ([0.5] * 3, [0.5] * 3)
        mean = torch.tensor(config.mean or found[0])
        std = torch.tensor(config.std or found[1])
        if len(mean) != 3 or len(std) != 3 or (std <= 0).any():
            raise UserError(
                f"The normalisation of the teacher {config.teacher!r} must be three means and "
                f"three deviations above 0: set its mean and std."
            )
        self.register_buffer("mean", mean.view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", std.view(1, 3, 1, 1), persistent=False)
        self.mean: Tensor
        self.std: Tensor

    def train(self, mode: bool = True) -> "FurtherTeacher":
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
            images = F.interpolate(
                images, size=size, mode="bicubic", align_corners=False, antialias=True
            )
        pixels = ((images + 1) / 2 - self.mean) / self.std
        return patch_features(self.teacher, pixels, self.config.layer)

    def forward(
        self, config: SemanticPhaseConfig, hidden: Tensor, images: Tensor
    ) -> dict[str, Tensor]:
        """`distillation_loss` from the semantic decoder's (B, h, w, D), its sum weighted."""
        target = self.target(images, (hidden.shape[1], hidden.shape[2]))
        losses = distillation_loss(config, self.head(hidden.flatten(1, 2)), target)
        losses["loss"] = self.config.weight * losses["loss"]
        return losses
