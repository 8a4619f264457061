"""Phase `joint`: both levels of codes at once, on the sum of the losses of `semantic` and `pixel`.

Only the teacher is frozen, and the pixels' gradient reaches the semantic encoder. The staged phases
avoid that; this phase is there to compare with them, for every `code_structure`.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from tokenizer.codebooks.training import CodebookTraining
from tokenizer.losses.perceptual import ReconstructionLoss
from tokenizer.model.codebook import JoinedCodebook
from tokenizer.training.new_model import build_model, train_only
from tokenizer.training.phase_semantic import distillation_loss
from tokenizer.training.settings import JointPhaseSettings


class JointPhase(nn.Module):
    """Trains both encoders, both codebooks, the semantic decoder and the pixel decoder."""

    def __init__(self, settings: JointPhaseSettings):
        super().__init__()
        self.settings = settings
        self.model = build_model(settings.teacher, settings.model)
        train_only(self.model, "semantic_encoder", "semantic_decoder", "pixel_encoder", "decoder")
        semantic, pixel = self.model.semantic_codebook, self.model.pixel_sub_codebooks
        codebooks = {"semantic": semantic, "pixel": pixel}
        self.joined = None
        if self.model.config.code_structure == "flat":
            self.joined = JoinedCodebook(semantic, pixel)
            codebooks = {"semantic": self.joined}
        self.codebooks: Any = nn.ModuleList(
            CodebookTraining(name, codebook, settings.codebook, settings.training.seed)
            for name, codebook in codebooks.items()
        )
        self.image_size = self.model.config.image_size
        self.reconstruction_loss = ReconstructionLoss(settings.loss)

    @torch.no_grad()
    def start(self, batches: Iterable[Tensor]) -> None:
        """Start the codes by k-means over batches of (B, 3, H, W) images, pixel codes second."""
        found: list[tuple[Tensor, Tensor]] = []
        for images in batches:
            target = self.model.teacher_features(images)
            vectors = self.model.semantic_vectors(target, self.model.grid(images))
            found.append((vectors, self.model.pixel_vectors(images)))
        semantic, pixel = (torch.cat(parts) for parts in zip(*found, strict=True))
        if self.joined is not None:
            self.codebooks[0].start(torch.cat([semantic, pixel], dim=-1))
            return
        self.codebooks[0].start(semantic)
        codes = self.model.semantic_codebook(semantic).codes
        self.codebooks[1].start(pixel, self.model.pixel_groups(codes))

    def forward(self, batch: dict) -> dict[str, Tensor]:
        images = batch["images"]
        grid = self.model.grid(images)
        target = self.model.teacher_features(images)
        code_vectors, quantizer_losses = self._quantize(
            self.model.semantic_vectors(target, grid), self.model.pixel_vectors(images)
        )
        semantic = code_vectors[..., : self.model.config.semantic_code_dim]
        distilled = distillation_loss(
            self.settings, self.model.semantic_features(semantic, grid), target
        )
        losses = self.reconstruction_loss(self.model.decoder(code_vectors, grid), images)
        loss = losses["loss"] + distilled["loss"] + quantizer_losses["loss"]
        named = {"cosine_loss": distilled["cosine_loss"], "feature_l1_loss": distilled["l1_loss"]}
        return losses | quantizer_losses | named | {"loss": loss}

    def _quantize(self, semantic: Tensor, pixel: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Joint code vectors (B, N, D_semantic + D_pixel), and the summed losses of both."""
        if self.joined is not None:
            joint, losses = self.codebooks[0](torch.cat([semantic, pixel], dim=-1))
            # Two means over the halves, as below, and not one over all of their numbers.
            return joint.vectors, {name: 2 * value for name, value in losses.items()}
        one, losses = self.codebooks[0](semantic)
        two, more = self.codebooks[1](pixel, self.model.pixel_groups(one.codes))
        vectors = torch.cat([one.vectors, two.vectors], dim=-1)
        return vectors, {name: losses[name] + more[name] for name in losses}
