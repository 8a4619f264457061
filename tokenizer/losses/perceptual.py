"""How far a reconstruction is from its image: L1, L2, and how it looks to a frozen network."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from runtime.errors import UserError, says
from tokenizer.losses.features import load_features
from tokenizer.losses.settings import ReconstructionSettings

PerceptualDistance = Callable[[Tensor, Tensor], Tensor]
"""Two (B, 3, H, W) batches in [-1, 1] → (B,) distances, 0 for equal images."""


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


def load_distance(name: str) -> PerceptualDistance:
    """The distance that the setting `perceptual.network` names.

    Args:
        name: "lpips-vgg" is LPIPS with VGG-16, by the authors' package `lpips` (arXiv 1801.03924).
            Of other networks it is the squared distance of their channel-normalised features,
            averaged over positions and levels: the form of LPIPS (eq. 1) without its learned
            channel weights, so it is named after the network and is not LPIPS.

    Raises:
        UserError: if the network cannot be loaded.
    """
    if name == "lpips-vgg":
        return _lpips()
    features = load_features(name)

    def distance(images: Tensor, others: Tensor) -> Tensor:
        levels = [
            (F.normalize(a.float(), dim=1) - F.normalize(b.float(), dim=1)).square().sum(1).mean(1)
            for a, b in zip(features(images), features(others), strict=True)
        ]
        return torch.stack(levels).mean(0)

    return distance


def _lpips() -> PerceptualDistance:
    try:
        from lpips import LPIPS
    except (ImportError, RuntimeError) as error:  # torchvision may not fit the torch build
        raise UserError(
            "LPIPS needs the packages lpips and torchvision; run "
            '`pip install "semhitok[lpips]"`, or take the network efficientnet-lite0'
        ) from error
    try:
        network = LPIPS(net="vgg", verbose=False).eval().requires_grad_(False)
    except OSError as error:  # no network, no cached weights
        raise UserError(
            f"the VGG-16 weights of LPIPS cannot be downloaded ({says(error)}); put them into the "
            f"cache of torch hub, or take the network efficientnet-lite0"
        ) from error
    return lambda images, others: network.to(images.device)(images, others).flatten()
