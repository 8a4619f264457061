"""How far a reconstruction is from its image: L1, L2 and a perceptual distance."""

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenizer.losses.perceptual import load_distance
from tokenizer.losses.settings import ReconstructionSettings


class ReconstructionLoss:
    """L1, L2 and, where the settings name a network, a perceptual `distance`.

    Not an `nn.Module`: its frozen network is neither trained nor saved.
    """

    def __init__(self, settings: ReconstructionSettings):
        self.settings = settings
        network = settings.perceptual.network
        self.distance = load_distance(network) if network else None

    def __call__(self, reconstruction: Tensor, images: Tensor) -> dict[str, Tensor]:
        """Losses of (B, 3, H, W) images in [-1, 1]: weighted sum, terms, `batch_psnr` in dB over
        all pixels, and the reconstruction itself, which an adversary judges.
        """
        l1 = F.l1_loss(reconstruction, images)
        l2 = F.mse_loss(reconstruction, images)
        losses = {
            "loss": self.settings.l1_weight * l1 + self.settings.l2_weight * l2,
            "l1_loss": l1.detach(),
            "l2_loss": l2.detach(),
            "batch_psnr": -10 * torch.log10(l2.detach() / 4),  # the range of 2, squared, is 4
            "reconstruction": reconstruction,
        }
        if self.distance is not None:
            perceptual = self.distance(reconstruction, images).mean()
            losses["loss"] = losses["loss"] + self.settings.perceptual.weight * perceptual
            losses["perceptual_loss"] = perceptual.detach()
        return losses
