"""Phase `joint`: both levels of codes at once, on the sum of the losses of `semantic` and `pixel`.

Nothing but the teacher is frozen, and the pixels' gradient reaches the semantic encoder: what the
staged phases avoid, to compare with, for every `code_structure`.
"""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from data_pipelines.loading.dataset import PreparedDataset
from tokenizer.codebooks.training import CodebookTraining
from tokenizer.model.joined_codebook import JoinedCodebook
from tokenizer.saved.history import phase_record
from tokenizer.saved.model_folder import save_tokenizer
from tokenizer.training.distillation import distillation_loss
from tokenizer.training.phase_pixels import ReconstructionLoss, last_layer
from tokenizer.training.settings import JointPhaseConfig
from tokenizer.training.teacher import build_model, trainable


class JointPhase(nn.Module):
    """Trains both encoders, both codebooks, the semantic decoder and the pixel decoder."""

    def __init__(self, config: JointPhaseConfig, dataset: PreparedDataset):
        super().__init__()
        self.config = config
        self.dataset = dataset
        self.model = build_model(config.teacher, config.model)
        trainable(self.model, "semantic_encoder", "semantic_decoder", "pixel_encoder", "decoder")
        semantic, pixel = self.model.semantic_codebook, self.model.pixel_sub_codebooks
        self.joined = None
        if self.model.config.code_structure == "flat":
            self.joined = JoinedCodebook(semantic, pixel)
        codebooks = [semantic, pixel] if self.joined is None else [self.joined]
        self.codebook_trainings = nn.ModuleList(
            CodebookTraining(codebook, config.codebook, config.training.seed)
            for codebook in codebooks
        )
        self.image_size = self.model.config.image_size
        self.reconstruction_loss = ReconstructionLoss(config.loss)

    @property
    def last_layer(self) -> nn.Parameter:
        """Where an adaptive weight compares gradients."""
        return last_layer(self.model.decoder)

    @torch.no_grad()
    def start(self, batches: Iterable[Tensor]) -> None:
        """Place the codes by k-means over batches of (B, 3, H, W) images, pixel codes second."""
        found: list[tuple[Tensor, Tensor]] = []
        for images in batches:
            target = self.model.teacher_features(images)
            vectors = self.model.semantic_vectors(target, self.model.grid(images))
            found.append((vectors, self.model.pixel_vectors(images)))
        semantic, pixel = (torch.cat(parts) for parts in zip(*found, strict=True))
        first, *second = self._trainings()
        if self.joined is not None:
            first.start(torch.cat([semantic, pixel], dim=-1))
            self.joined.push()
            return
        first.start(semantic)
        codes = self.model.semantic_codebook(semantic).codes
        second[0].start(pixel, self.model.pixel_groups(codes))

    def forward(self, batch: dict) -> dict[str, Tensor]:
        images = batch["images"]
        grid = self.model.grid(images)
        target = self.model.teacher_features(images)
        code_vectors, quantizer_losses = self._quantize(
            self.model.semantic_vectors(target, grid), self.model.pixel_vectors(images)
        )
        semantic = code_vectors[..., : self.model.config.semantic_code_dim]
        distilled = distillation_loss(
            self.config, self.model.semantic_features(semantic, grid), target
        )
        losses = self.reconstruction_loss(self.model.decoder(code_vectors, grid), images)
        loss = losses["loss"] + distilled["loss"] + quantizer_losses["loss"]
        named = {"cosine_loss": distilled["cosine_loss"], "feature_l1_loss": distilled["l1_loss"]}
        return losses | quantizer_losses | named | {"loss": loss}

    def _quantize(self, semantic: Tensor, pixel: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Joint code vectors (B, N, D_semantic + D_pixel), and the summed losses of both."""
        first, *second = self._trainings()
        if self.joined is not None:
            joint, losses = first(torch.cat([semantic, pixel], dim=-1))
            # Two means over the halves, as below, and not one over all of their numbers.
            return joint.vectors, {name: 2 * value for name, value in losses.items()}
        one, losses = first(semantic)
        two, more = second[0](pixel, self.model.pixel_groups(one.codes))
        vectors = torch.cat([one.vectors, two.vectors], dim=-1)
        return vectors, {name: losses[name] + more[name] for name in losses}

    def after_step(self) -> dict[str, float]:
        """Move the codebooks with what the step's micro-batches saw."""
        moved = [training.after_step() for training in self._trainings()]
        if self.joined is not None:
            self.joined.push()
        return {
            "revived_codes": sum(each["revived_codes"] for each in moved),
            "batch_semantic_usage": moved[0]["batch_usage"],
        }

    def _trainings(self) -> list[CodebookTraining]:
        return list(self.codebook_trainings)  # type: ignore[arg-type]

    def forget_step(self) -> None:
        """Drop what the step's micro-batches saw."""
        for training in self._trainings():
            training.forget()

    def save(self, folder: Path) -> None:
        save_tokenizer(self.model, folder, phase_record("joint", self.config, self.dataset))
