"""Features of frozen vision networks, which losses compare and discriminators judge.

Shapes: B batch, H·W pixels, C channels, P positions of one feature map (rows · columns, or tokens).
"""

from collections.abc import Callable, Sequence
from inspect import signature

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from runtime.errors import UserError, says
from tokenizer.losses.efficientnet_lite import FEATURE_CHANNELS, load_efficientnet_lite0
from tokenizer.saved.encoders import IMAGENET, load_encoder, normalisation

NUM_LEVELS = 4  # of a transformers encoder: at a quarter, a half, three quarters and all of it


class FrozenFeatures:
    """Features of a frozen network at several depths; gradients pass through it to the images.

    Not an `nn.Module`, so that a module that holds one neither trains, saves nor broadcasts it. It
    follows the images to their device.

    Args:
        network: in eval mode, without gradients of its own.
        channels: C of each level.
        levels: (B, 3, H, W) images in [-1, 1] to a (B, C, P) or (B, C, h, w) of each level.
    """

    def __init__(
        self,
        network: nn.Module,
        channels: tuple[int, ...],
        levels: Callable[[Tensor], Sequence[Tensor]],
    ):
        self.network = network
        self.channels = channels
        self._levels = levels

    def __call__(self, images: Tensor) -> list[Tensor]:
        """One (B, C, P) tensor for each level, of (B, 3, H, W) images in [-1, 1]."""
        self.network.to(images.device)
        return [level.flatten(2) for level in self._levels(images)]


def load_features(name: str) -> FrozenFeatures:
    """The features behind the setting `network` or `discriminator`.

    Args:
        name: "efficientnet-lite0", whose five levels have strides of 2 to 32; or the folder or hub
            name of a transformers vision encoder (ConvNeXt, DINOv2, SigLIP), of which four hidden
            states are read.

    Raises:
        UserError: if there is no such encoder, or it has no hidden states.
    """
    if name == "efficientnet-lite0":
        network = load_efficientnet_lite0()
        return FrozenFeatures(network, FEATURE_CHANNELS, network.features)
    # In float32 whatever it was saved in: the images are, and so must gradients be.
    encoder = load_encoder(name, torch.float32)
    # A network of stages halves the image beyond its first patches, in all by 32.
    staged = hasattr(encoder.config, "depths") or not hasattr(encoder.config, "patch_size")
    patch_size = 32 if staged else int(encoder.config.patch_size)
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in normalisation(name, IMAGENET))
    options = {"output_hidden_states": True}
    if "interpolate_pos_encoding" in signature(encoder.forward).parameters:
        # SigLIP and CLIP fit their positions to another size only when told to.
        options["interpolate_pos_encoding"] = True

    def levels(images: Tensor) -> list[Tensor]:
        size = [max(1, round(side / patch_size)) * patch_size for side in images.shape[-2:]]
        if size != list(images.shape[-2:]):
            images = F.interpolate(images, size=size, mode="bilinear", antialias=True)
        pixels = ((images + 1) / 2 - mean.to(images)) / std.to(images)
        states = encoder(pixel_values=pixels, **options).hidden_states[1:]  # without the embedding
        depths = {-(-len(states) * (level + 1) // NUM_LEVELS) - 1 for level in range(NUM_LEVELS)}
        chosen = [states[depth] for depth in sorted(depths)]
        # A convolutional network has maps, a transformer tokens with their channels last.
        return [state if state.ndim == 4 else state.transpose(1, 2) for state in chosen]

    try:
        found = levels(torch.zeros(1, 3, 2 * patch_size, 2 * patch_size))
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{name!r} is a {type(encoder).__name__}, which has no features of an image "
            f"({says(error)}); name a vision encoder such as DINOv2 or ConvNeXt"
        ) from error
    return FrozenFeatures(encoder, tuple(state.shape[1] for state in found), levels)
