"""Phase `semantic`: codes that stand for a frozen teacher's patch features (VQ-KD)."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_pipelines.dataset import PreparedDataset
from tokenizer.codebook_ema import CodebookEMA
from tokenizer.model_folder import save_tokenizer
from tokenizer.teacher import build_model, refuse_flat, trainable
from tokenizer.training_config import JointPhaseConfig, SemanticPhaseConfig


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


class SemanticPhase(nn.Module):
    """Trains semantic encoder, codebook and decoder; the teacher is frozen."""

    def __init__(self, config: SemanticPhaseConfig, dataset: PreparedDataset):
        super().__init__()
        self.config = config
        self.model = build_model(config.teacher, config.model)
        refuse_flat(self.model, "semantic")
        trainable(self.model, "semantic_encoder", "semantic_decoder")
        self.codebook_ema = CodebookEMA(
            self.model.semantic_codebook,
            config.codebook.decay,
            config.codebook.revive_below,
            config.training.seed,
        )
        self.image_size = self.model.config.image_size
        self._last: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def start(self, images: Tensor) -> None:
        """Place the codes by k-means over (B, 3, H, W) images."""
        vectors = self.model.semantic_vectors(
            self.model.teacher_features(images), self.model.grid(images)
        )
        self.codebook_ema.kmeans_start(vectors.flatten(0, 1))

    def forward(self, batch: dict) -> dict[str, Tensor]:
        images = batch["images"]
        grid = self.model.grid(images)
        target = self.model.teacher_features(images)
        vectors = self.model.semantic_vectors(target, grid)
        quantized = self.model.semantic_codebook(vectors)
        features = self.model.semantic_features(quantized.vectors, grid)
        self._last = (vectors.detach().flatten(0, 1), quantized.codes.flatten())
        losses = distillation_loss(self.config, features, target)
        weight = self.config.codebook.commitment_weight
        losses["loss"] = losses["loss"] + weight * quantized.commitment_loss
        losses["commitment_loss"] = quantized.commitment_loss.detach()
        return losses

    def after_step(self) -> dict[str, float]:
        """Move the codebook with what the step saw."""
        assert self._last is not None
        vectors, codes = self._last
        revived = self.codebook_ema.update(vectors, codes)
        used = codes.unique().numel() / self.model.config.num_semantic_codes
        return {"revived_codes": revived, "batch_semantic_usage": used}

    def save(self, folder: Path) -> None:
        save_tokenizer(self.model, folder)
