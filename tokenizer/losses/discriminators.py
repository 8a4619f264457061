"""Networks that tell images from reconstructions, position by position.

Both normalise within an image, never over the batch: the verdict on an image does not depend on the
rest of its batch, nor on the number of ranks.

Shapes: B batch, H·W pixels, C channels, P judged positions.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from runtime.errors import UserError
from tokenizer.losses.features import load_features
from tokenizer.losses.settings import AdversarialSettings


class PatchGAN(nn.Module):
    """Strided convolutions that judge overlapping patches (pix2pix, arXiv 1611.07004).

    Args:
        width: channels of the first layer, doubled by each further one up to eightfold.
        num_layers: halvings; 3 gives the usual receptive field of 70 pixels.
    """

    def __init__(self, width: int = 64, num_layers: int = 3):
        super().__init__()
        layers = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        in_dim = width
        for depth in range(1, num_layers + 1):
            out_dim = width * min(2**depth, 8)
            stride = 2 if depth < num_layers else 1
            layers += [
                nn.Conv2d(in_dim, out_dim, 4, stride=stride, padding=1, bias=False),
                nn.GroupNorm(1, out_dim),
                nn.LeakyReLU(0.2),
            ]
            in_dim = out_dim
        layers.append(nn.Conv2d(in_dim, 1, 4, padding=1))
        self.layers = nn.Sequential(*layers)
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.02)  # pix2pix's

    def forward(self, images: Tensor) -> Tensor:
        """(B, P) logits of (B, 3, H, W) images in [-1, 1]; positive means real."""
        return self.layers(images).flatten(1)


class FeatureDiscriminator(nn.Module):
    """Small heads on the features of a frozen network (projected GAN, arXiv 2111.01007).

    `name` is one of `load_features`, usually DINO's; `width` the hidden channels of each head.
    """

    def __init__(self, name: str, width: int = 64):
        super().__init__()
        self.features = load_features(name)
        self.heads = nn.ModuleList(
            nn.Sequential(
                spectral_norm(nn.Conv1d(channels, width, 1)),
                nn.GroupNorm(1, width),
                nn.LeakyReLU(0.2),
                spectral_norm(nn.Conv1d(width, 1, 1)),
            )
            for channels in self.features.channels
        )

    def forward(self, images: Tensor) -> Tensor:
        """(B, P) logits of (B, 3, H, W) images in [-1, 1], the positions of all levels in a row."""
        levels = self.features(images)
        judged = [head(level) for head, level in zip(self.heads, levels, strict=True)]
        return torch.cat([logits.flatten(1) for logits in judged], dim=1)


def build_discriminator(settings: AdversarialSettings, image_size: int) -> nn.Module:
    """The discriminator that the settings name; too small images are refused."""
    assert settings.discriminator is not None
    if settings.discriminator == "patchgan":
        # Each halving rounds down, and the two 4-wide layers at stride 1 take one pixel each.
        smallest = 3 * 2**settings.num_layers
        if image_size < smallest:
            raise UserError(
                f"the PatchGAN discriminator needs images of at least {smallest} pixels a side, "
                f"not {image_size}; lower loss.adversarial.num_layers"
            )
        return PatchGAN(settings.width, settings.num_layers)
    return FeatureDiscriminator(settings.discriminator, settings.width)
