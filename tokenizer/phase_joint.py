"""Phase `joint`: both levels of codes at once, on the sum of the losses of `semantic` and `pixel`.

Nothing but the teacher is frozen, and the pixels' gradient reaches the semantic encoder: what the
staged phases avoid, to compare with, for every `code_structure`.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from data_pipelines.dataset import PreparedDataset
from tokenizer.codebook import Quantized
from tokenizer.codebook_ema import CodebookEMA
from tokenizer.codebook_joined import JoinedCodebook
from tokenizer.distillation import distillation_loss
from tokenizer.model_folder import save_tokenizer
from tokenizer.phase_pixels import ReconstructionLoss, last_layer
from tokenizer.teacher import build_model, trainable
from tokenizer.training_config import JointPhaseConfig


class JointPhase(nn.Module):
    """Trains both encoders, both codebooks, the semantic decoder and the pixel decoder."""

    def __init__(self, config: JointPhaseConfig, dataset: PreparedDataset):
        super().__init__()
        self.config = config
        self.model = build_model(config.teacher, config.model)
        trainable(self.model, "semantic_encoder", "semantic_decoder", "pixel_encoder", "decoder")
        semantic, pixel = self.model.semantic_codebook, self.model.pixel_sub_codebooks
        self.joined = None
        if self.model.config.code_structure == "flat":
            self.joined = JoinedCodebook(semantic, pixel)
        codebooks = [semantic, pixel] if self.joined is None else [self.joined]
        rule = config.codebook
        self._emas = [
            CodebookEMA(codebook, rule.decay, rule.revive_below, config.training.seed)
            for codebook in codebooks
        ]
        self.codebook_emas = nn.ModuleList(self._emas)  # so that a checkpoint has them
        self.image_size = self.model.config.image_size
        self.reconstruction_loss = ReconstructionLoss(config.loss)
        # Of each micro-batch, what each codebook saw.
        self._seen: list[list[tuple[Tensor, Tensor, Tensor | None]]] = []

    @property
    def last_layer(self) -> nn.Parameter:
        """Where an adaptive weight compares gradients."""
        return last_layer(self.model.decoder)

    @torch.no_grad()
    def start(self, images: Tensor) -> None:
        """Place the codes by k-means over (B, 3, H, W) images, the pixel codes second."""
        target = self.model.teacher_features(images)
        semantic = self.model.semantic_vectors(target, self.model.grid(images)).flatten(0, 1)
        pixel = self.model.pixel_vectors(images).flatten(0, 1)
        if self.joined is not None:
            self._emas[0].kmeans_start(torch.cat([semantic, pixel], dim=-1))
            self.joined.push()
            return
        self._emas[0].kmeans_start(semantic)
        codebook = self.model.semantic_codebook
        codes = codebook.nearest(codebook.normalize(semantic))
        self._emas[1].kmeans_start(pixel, self.model.pixel_groups(codes))

    def forward(self, batch: dict) -> dict[str, Tensor]:
        images = batch["images"]
        grid = self.model.grid(images)
        target = self.model.teacher_features(images)
        code_vectors, commitment = self._quantize(
            self.model.semantic_vectors(target, grid), self.model.pixel_vectors(images)
        )
        semantic = code_vectors[..., : self.model.config.semantic_code_dim]
        distilled = distillation_loss(
            self.config, self.model.semantic_features(semantic, grid), target
        )
        losses = self.reconstruction_loss(self.model.decoder(code_vectors, grid), images)
        loss = losses["loss"] + distilled["loss"]
        return losses | {
            "loss": loss + self.config.codebook.commitment_weight * commitment,
            "cosine_loss": distilled["cosine_loss"],
            "feature_l1_loss": distilled["l1_loss"],
            "commitment_loss": commitment.detach(),
        }

    def _quantize(self, semantic: Tensor, pixel: Tensor) -> tuple[Tensor, Tensor]:
        """Joint code vectors (B, N, D_semantic + D_pixel), and the commitment loss of both."""
        if self.joined is not None:
            vectors = torch.cat([semantic, pixel], dim=-1)
            joint: Quantized = self.joined(vectors)
            self._seen.append([_seen(vectors, joint.codes, None)])
            # Two means over the halves, as below, and not one over all of their numbers.
            return joint.vectors, 2 * joint.commitment_loss
        first: Quantized = self.model.semantic_codebook(semantic)
        groups = self.model.pixel_groups(first.codes)
        second: Quantized = self.model.pixel_sub_codebooks(pixel, groups)
        self._seen.append([_seen(semantic, first.codes, None), _seen(pixel, second.codes, groups)])
        vectors = torch.cat([first.vectors, second.vectors], dim=-1)
        return vectors, first.commitment_loss + second.commitment_loss

    def after_step(self) -> dict[str, float]:
        """Move the codebooks with what the step's micro-batches saw."""
        seen = [_joined(parts) for parts in zip(*self._seen, strict=True)]
        self.forget_step()
        revived = sum(ema.update(*each) for ema, each in zip(self._emas, seen, strict=True))
        if self.joined is not None:
            self.joined.push()
        codes = seen[0][1]
        used = codes.unique().numel() / self.model.config.num_semantic_codes
        return {"revived_codes": revived, "batch_semantic_usage": used}

    def forget_step(self) -> None:
        """Drop what the step's micro-batches saw."""
        self._seen.clear()

    def save(self, folder: Path) -> None:
        save_tokenizer(self.model, folder)


def _seen(vectors: Tensor, codes: Tensor, groups: Tensor | None) -> tuple:
    """One look-up as `CodebookEMA.update` takes it."""
    return (
        vectors.detach().flatten(0, 1),
        codes.flatten(),
        None if groups is None else groups.flatten(),
    )


def _joined(parts: tuple) -> tuple[Tensor, Tensor, Tensor | None]:
    """What one codebook saw in all micro-batches, of what it saw in each."""
    vectors, codes, groups = zip(*parts, strict=True)
    return torch.cat(vectors), torch.cat(codes), None if groups[0] is None else torch.cat(groups)
