"""Phase `semantic`: codes that stand for frozen teachers' patch features (VQ-KD)."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from data_pipelines.loading.dataset import PreparedDataset
from tokenizer.codebooks.training import CodebookTraining
from tokenizer.saved.history import phase_record
from tokenizer.saved.model_folder import save_tokenizer
from tokenizer.training.distillation import FurtherTeacher, distillation_loss
from tokenizer.training.settings import SemanticPhaseConfig
from tokenizer.training.teacher import build_model, refuse_flat, trainable


class SemanticPhase(nn.Module):
    """Trains semantic encoder, codebook and decoder; the teachers are frozen."""

    def __init__(self, config: SemanticPhaseConfig, dataset: PreparedDataset):
        super().__init__()
        self.config = config
        self.dataset = dataset
        self.model = build_model(config.teacher, config.model)
        refuse_flat(self.model, "semantic")
        trainable(self.model, "semantic_encoder", "semantic_decoder")
        self.further_teachers = nn.ModuleList(
            FurtherTeacher(further, self.model.config.semantic_hidden_size)
            for further in config.further_teachers
        )
        self.codebook_training = CodebookTraining(
            self.model.semantic_codebook, config.codebook, config.training.seed
        )
        self.image_size = self.model.config.image_size

    @torch.no_grad()
    def start(self, batches: Iterable[Tensor]) -> None:
        """Place the codes by k-means over batches of (B, 3, H, W) images."""
        vectors = [
            self.model.semantic_vectors(
                self.model.teacher_features(images), self.model.grid(images)
            )
            for images in batches
        ]
        self.codebook_training.start(torch.cat(vectors))

    def forward(self, batch: dict) -> dict[str, Tensor]:
        images = batch["images"]
        grid = self.model.grid(images)
        target = self.model.teacher_features(images)
        vectors = self.model.semantic_vectors(target, grid)
        quantized, quantizer_losses = self.codebook_training(vectors)
        hidden = self.model.semantic_decoder["trunk"](quantized.vectors, grid)
        features = self.model.semantic_decoder["head"](hidden)
        losses = distillation_loss(self.config, features, target)
        for number, teacher in enumerate(self.further_teachers, start=2):
            further = teacher(self.config, hidden.unflatten(1, grid), images)
            losses["loss"] = losses["loss"] + further.pop("loss")
            losses |= {f"{name}_{number}": value for name, value in further.items()}
        return losses | quantizer_losses | {"loss": losses["loss"] + quantizer_losses["loss"]}

    def after_step(self) -> dict[str, float]:
        """Move the codebook with what the step's micro-batches saw."""
        moved = self.codebook_training.after_step()
        return {
            "revived_codes": moved["revived_codes"],
            "batch_semantic_usage": moved["batch_usage"],
        }

    def forget_step(self) -> None:
        """Drop what the step's micro-batches saw."""
        self.codebook_training.forget()

    def save(self, folder: Path) -> None:
        save_tokenizer(self.model, folder, phase_record("semantic", self.config, self.dataset))
