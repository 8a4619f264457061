"""Phases `pixel` and `decoder`: both learn to rebuild images from codes.

`pixel` trains the pixel encoder, the K×M sub-codebooks and a decoder, with everything semantic
frozen; `decoder` trains the Enhance Decoder alone, on frozen codes.
"""

from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_pipelines.loading.dataset import PreparedDataset
from runtime.errors import UserError
from tokenizer.codebooks.training import CodebookTraining
from tokenizer.losses.perceptual import load_distance
from tokenizer.model.pixel_networks import CodeDecoder
from tokenizer.saved.history import phase_record, require_phase
from tokenizer.saved.model_folder import load_tokenizer, save_tokenizer
from tokenizer.training.pixel_half import renew_enhance_decoder, renew_pixel_half
from tokenizer.training.settings import DecoderPhaseConfig, PixelLossConfig, PixelPhaseConfig
from tokenizer.training.start_from_teacher import start_from_teacher
from tokenizer.training.teacher import refuse_flat, trainable


class ReconstructionLoss:
    """L1, L2 and, where the config names a network, a perceptual distance.

    Not an `nn.Module`: its frozen network is neither trained nor saved.

    Attributes:
        distance: the perceptual distance, or None.
    """

    def __init__(self, config: PixelLossConfig):
        self.config = config
        network = config.perceptual.network
        self.distance = load_distance(network) if network else None

    def __call__(self, reconstruction: Tensor, images: Tensor) -> dict[str, Tensor]:
        """Weighted sum, terms, and the reconstruction itself, which an adversary judges.

        Args:
            reconstruction, images: (B, 3, H, W) in [-1, 1]; PSNR is in dB over the batch's pixels.
        """
        l1 = F.l1_loss(reconstruction, images)
        l2 = F.mse_loss(reconstruction, images)
        psnr = -10 * torch.log10(l2.detach() / 4)  # the range of [-1, 1] is 2, squared 4
        losses = {
            "loss": self.config.l1_weight * l1 + self.config.l2_weight * l2,
            "l1_loss": l1.detach(),
            "l2_loss": l2.detach(),
            "batch_psnr": psnr,
            "reconstruction": reconstruction,
        }
        if self.distance is not None:
            perceptual = self.distance(reconstruction, images).mean()
            losses["loss"] = losses["loss"] + self.config.perceptual.weight * perceptual
            losses["perceptual_loss"] = perceptual.detach()
        return losses


def last_layer(decoder: nn.Module) -> nn.Parameter:
    """The weight that makes the pixels, where an adaptive weight compares gradients."""
    return [p for p in decoder.parameters() if p.ndim > 1][-1]


@torch.no_grad()
def grow_decoder(plain: nn.Module, deeper: nn.Module) -> None:
    """Start the deeper decoder as the same function as the plain one.

    Shared layers are copied; the further blocks start with nothing to add to the residual stream.

    Raises:
        UserError: if one is convolutional, the widths or heads differ, or the deeper one has fewer
            layers.
    """
    if not (isinstance(plain, CodeDecoder) and isinstance(deeper, CodeDecoder)):
        raise UserError(
            "Only an Enhance Decoder of kind 'vit' can start from a plain one of that kind: set "
            "both kinds to 'vit', or start_from_decoder to false."
        )
    shared = plain.state_dict()
    own = deeper.state_dict()
    misfits = [k for k, v in shared.items() if k not in own or own[k].shape != v.shape]
    if misfits:
        raise UserError(
            f"The Enhance Decoder cannot start from the plain decoder, whose {misfits[0]} has "
            f"another shape: give both one width, or set start_from_decoder to false."
        )
    deeper.load_state_dict({**own, **shared})
    num_shared = len(plain.trunk.blocks.layers)
    for block in deeper.trunk.blocks.layers[num_shared:]:
        for last in (block.self_attn.out_proj, block.mlp.fc2):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)


class PixelPhase(nn.Module):
    """Trains pixel encoder, pixel sub-codebooks and decoder (SGHC)."""

    def __init__(self, config: PixelPhaseConfig, dataset: PreparedDataset):
        super().__init__()
        self.config = config
        self.dataset = dataset
        self.model = load_tokenizer(config.tokenizer)
        require_phase(self.model.config, "semantic", str(config.tokenizer))
        if config.model:
            self.model = renew_pixel_half(self.model, config.model)
        refuse_flat(self.model, "pixel")
        if config.start_from_teacher:
            start_from_teacher(self.model)
        trainable(self.model, "pixel_encoder", "decoder")
        self.codebook_training = CodebookTraining(
            self.model.pixel_sub_codebooks, config.codebook, config.training.seed
        )
        self.image_size = self.model.config.image_size
        self.reconstruction_loss = ReconstructionLoss(config.loss)

    @property
    def last_layer(self) -> nn.Parameter:
        """Where an adaptive weight compares gradients."""
        return last_layer(self.model.decoder)

    @torch.no_grad()
    def start(self, batches: Iterable[Tensor]) -> None:
        """Place every sub-codebook by k-means over batches of (B, 3, H, W) images."""
        vectors, groups = [], []
        for images in batches:
            groups.append(self.model.pixel_groups(self.model.semantic_codes(images)))
            vectors.append(self.model.pixel_vectors(images))
        self.codebook_training.start(torch.cat(vectors), torch.cat(groups))

    def forward(self, batch: dict) -> dict[str, Tensor]:
        images = batch["images"]
        semantic_codes = self.model.semantic_codes(images)
        vectors = self.model.pixel_vectors(images)
        groups = self.model.pixel_groups(semantic_codes)
        quantized, quantizer_losses = self.codebook_training(vectors, groups)
        semantic = self.model.semantic_codebook.lookup(semantic_codes)
        joint = torch.cat([semantic, quantized.vectors], dim=-1)
        reconstruction = self.model.decoder(joint, self.model.grid(images))
        losses = self.reconstruction_loss(reconstruction, images)
        return losses | quantizer_losses | {"loss": losses["loss"] + quantizer_losses["loss"]}

    def after_step(self) -> dict[str, float]:
        """Move the sub-codebooks with what the step's micro-batches saw."""
        moved = self.codebook_training.after_step()
        return {"revived_codes": moved["revived_codes"], "batch_pixel_usage": moved["batch_usage"]}

    def forget_step(self) -> None:
        """Drop what the step's micro-batches saw."""
        self.codebook_training.forget()

    def save(self, folder: Path) -> None:
        save_tokenizer(self.model, folder, phase_record("pixel", self.config, self.dataset))


class DecoderPhase(nn.Module):
    """Trains the Enhance Decoder on frozen codes."""

    def __init__(self, config: DecoderPhaseConfig, dataset: PreparedDataset):
        super().__init__()
        self.config = config
        self.dataset = dataset
        self.model = load_tokenizer(config.tokenizer)
        require_phase(self.model.config, "pixel", str(config.tokenizer))
        if config.model:
            self.model = renew_enhance_decoder(self.model, config.model)
        self.model.config.use_enhance_decoder = True
        if config.start_from_decoder:
            grow_decoder(self.model.decoder, self.model.enhance_decoder)
        trainable(self.model, "enhance_decoder")
        self.image_size = self.model.config.image_size
        self.reconstruction_loss = ReconstructionLoss(config.loss)

    @property
    def last_layer(self) -> nn.Parameter:
        """Where an adaptive weight compares gradients."""
        return last_layer(self.model.enhance_decoder)

    def forward(self, batch: dict) -> dict[str, Tensor]:
        images = batch["images"]
        code_vectors = self.model.code_vectors(self.model.encode(images))
        reconstruction = self.model.enhance_decoder(code_vectors, self.model.grid(images))
        return self.reconstruction_loss(reconstruction, images)

    def after_step(self) -> dict[str, float]:
        """Nothing moves outside the optimiser."""
        return {}

    def forget_step(self) -> None:
        """Nothing is kept of a step."""

    def save(self, folder: Path) -> None:
        save_tokenizer(self.model, folder, phase_record("decoder", self.config, self.dataset))
