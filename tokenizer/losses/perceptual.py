"""How far apart two images look to a frozen network."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from runtime.errors import UserError
from tokenizer.losses.features import FrozenFeatures, load_features

PerceptualDistance = Callable[[Tensor, Tensor], Tensor]
"""Two (B, 3, H, W) batches in [-1, 1] → (B,) distances, 0 for equal images."""


class FeatureDistance:
    """Squared distance of channel-normalised features, averaged over positions and levels.

    The form of LPIPS (arXiv 1801.03924, eq. 1) without its learned channel weights: it is named
    after its network and is not LPIPS.
    """

    def __init__(self, features: FrozenFeatures):
        self.features = features

    def __call__(self, images: Tensor, others: Tensor) -> Tensor:
        ours, theirs = self.features(images), self.features(others)
        levels = [
            (F.normalize(a.float(), dim=1) - F.normalize(b.float(), dim=1)).square().sum(1).mean(1)
            for a, b in zip(ours, theirs, strict=True)
        ]
        return torch.stack(levels).mean(0)


class LPIPSDistance:
    """LPIPS with VGG-16, by the authors' package `lpips` (arXiv 1801.03924)."""

    def __init__(self) -> None:
        try:
            from lpips import LPIPS
        except (ImportError, RuntimeError) as error:  # torchvision may not fit the torch build
            raise UserError(
                "LPIPS needs the packages lpips and torchvision: run "
                '`pip install "semhitok[lpips]"`, or take the network efficientnet-lite0.'
            ) from error
        try:
            network = LPIPS(net="vgg", verbose=False)
        except OSError as error:  # no network, no cached weights
            raise UserError(
                f"The VGG-16 weights of LPIPS cannot be downloaded ({error}): put them into torch "
                f"hub's cache, or take the network efficientnet-lite0."
            ) from error
        self.network = network.eval().requires_grad_(False)

    def __call__(self, images: Tensor, others: Tensor) -> Tensor:
        return self.network.to(images.device)(images, others).flatten()


def load_distance(name: str) -> PerceptualDistance:
    """The distance that a config's `perceptual.network` names."""
    return LPIPSDistance() if name == "lpips-vgg" else FeatureDistance(load_features(name))
