"""Phases `pixel` and `decoder`: both learn to rebuild images from codes.

`pixel` trains the pixel encoder, the K×M sub-codebooks and a decoder, with everything semantic
frozen; `decoder` trains the Enhance Decoder alone, on frozen codes.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from tokenizer.codebooks.training import CodebookTraining
from tokenizer.losses.perceptual import ReconstructionLoss
from tokenizer.saved.history import require_phase
from tokenizer.saved.model_folder import load_tokenizer
from tokenizer.training.new_model import (
    refuse_flat,
    renew_enhance_decoder,
    renew_pixel_half,
    train_only,
)
from tokenizer.training.settings import DecoderPhaseSettings, PixelPhaseSettings
from tokenizer.training.starts import grow_decoder


class PixelPhase(nn.Module):
    """Trains pixel encoder, pixel sub-codebooks and decoder (SGHC)."""

    def __init__(self, settings: PixelPhaseSettings):
        super().__init__()
        self.model = load_tokenizer(settings.tokenizer)
        require_phase(self.model.config, "semantic", str(settings.tokenizer))
        if settings.model:
            self.model = renew_pixel_half(self.model, settings.model)
        refuse_flat(self.model, "pixel")
        train_only(self.model, "pixel_encoder", "decoder")
        codebook = self.model.pixel_sub_codebooks
        training = CodebookTraining("pixel", codebook, settings.codebook, settings.training.seed)
        self.codebooks: Any = nn.ModuleList([training])
        self.image_size = self.model.config.image_size
        self.reconstruction_loss = ReconstructionLoss(settings.loss)

    @torch.no_grad()
    def start(self, batches: Iterable[Tensor]) -> None:
        """Start every sub-codebook by k-means over batches of (B, 3, H, W) images."""
        vectors, groups = [], []
        for images in batches:
            groups.append(self.model.pixel_groups(self.model.semantic_codes(images)))
            vectors.append(self.model.pixel_vectors(images))
        self.codebooks[0].start(torch.cat(vectors), torch.cat(groups))

    def forward(self, batch: dict) -> dict[str, Tensor]:
        images = batch["images"]
        semantic_codes = self.model.semantic_codes(images)
        vectors = self.model.pixel_vectors(images)
        groups = self.model.pixel_groups(semantic_codes)
        quantized, quantizer_losses = self.codebooks[0](vectors, groups)
        semantic = self.model.semantic_codebook.lookup(semantic_codes)
        joint = torch.cat([semantic, quantized.vectors], dim=-1)
        reconstruction = self.model.decoder(joint, self.model.grid(images))
        losses = self.reconstruction_loss(reconstruction, images)
        return losses | quantizer_losses | {"loss": losses["loss"] + quantizer_losses["loss"]}


class DecoderPhase(nn.Module):
    """Trains the Enhance Decoder on frozen codes."""

    def __init__(self, settings: DecoderPhaseSettings):
        super().__init__()
        self.model = load_tokenizer(settings.tokenizer)
        require_phase(self.model.config, "pixel", str(settings.tokenizer))
        if settings.model:
            self.model = renew_enhance_decoder(self.model, settings.model)
        self.model.config.use_enhance_decoder = True
        if settings.start_from_decoder:
            grow_decoder(self.model.decoder, self.model.enhance_decoder)
        train_only(self.model, "enhance_decoder")
        self.codebooks: Any = nn.ModuleList()
        self.image_size = self.model.config.image_size
        self.reconstruction_loss = ReconstructionLoss(settings.loss)

    def forward(self, batch: dict) -> dict[str, Tensor]:
        images = batch["images"]
        code_vectors = self.model.code_vectors(self.model.encode(images))
        reconstruction = self.model.enhance_decoder(code_vectors, self.model.grid(images))
        return self.reconstruction_loss(reconstruction, images)
