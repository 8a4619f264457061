"""Features of frozen vision networks, which losses compare and discriminators judge.

Shapes: B batch, H·W pixels, C channels, P positions of one feature map (rows · columns, or tokens).
"""

from inspect import signature

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModel
from transformers.image_processing_base import ImageProcessingMixin

from runtime.errors import UserError, says
from tokenizer.losses.efficientnet_lite import (
    FEATURE_CHANNELS,
    EfficientNetLite0,
    load_efficientnet_lite0,
)

NUM_LEVELS = 4  # of a transformers encoder: its depth at a quarter, a half, three quarters, the end
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class FrozenFeatures:
    """Features of a frozen network at several depths; gradients pass through it to the images.

    Not an `nn.Module`, so that whatever holds one neither trains, nor saves, nor broadcasts it. It
    follows the images to their device.

    Attributes:
        channels: C of each level.
    """

    def __init__(self, network: nn.Module, channels: tuple[int, ...]):
        self.network = network.eval().requires_grad_(False)
        self.channels = channels

    def __call__(self, images: Tensor) -> list[Tensor]:
        """One (B, C, P) tensor a level, of (B, 3, H, W) images in [-1, 1]."""
        self.network.to(images.device)
        return [level.flatten(2) for level in self.levels(images)]

    def levels(self, images: Tensor) -> list[Tensor]:
        """(B, C, P) or (B, C, h, w) at each level."""
        raise NotImplementedError


class EfficientNetFeatures(FrozenFeatures):
    """Five levels of EfficientNet-Lite0, at strides 2 to 32."""

    def __init__(self) -> None:
        super().__init__(load_efficientnet_lite0(), FEATURE_CHANNELS)

    def levels(self, images: Tensor) -> list[Tensor]:
        assert isinstance(self.network, EfficientNetLite0)
        return self.network.features(images)


class EncoderFeatures(FrozenFeatures):
    """Four hidden states of a transformers vision encoder: ConvNeXt, DINOv2, SigLIP and their like.

    Args:
        name: folder or hub name.

    Raises:
        UserError: if there is no such encoder, or it gives no hidden states.
    """

    def __init__(self, name: str):
        try:
            # In float32 whatever it was saved in: the images are, and so must gradients be.
            model = AutoModel.from_pretrained(name, dtype=torch.float32)
        except (OSError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
            raise UserError(
                f"No vision encoder can be loaded from {name!r}: give a folder written by "
                f"save_pretrained, a hub name, or efficientnet-lite0 ({says(error)})."
            ) from error
        network = getattr(model, "vision_model", model)
        mean, std = normalisation(name)
        self.mean, self.std = torch.tensor(mean), torch.tensor(std)
        # A network of stages halves the image beyond its first patches, in all by 32.
        staged = hasattr(network.config, "depths") or not hasattr(network.config, "patch_size")
        self.patch_size = 32 if staged else int(network.config.patch_size)
        parameters = signature(network.forward).parameters
        # SigLIP and CLIP fit their positions to another size only when told to.
        self.options = {"output_hidden_states": True}
        if "interpolate_pos_encoding" in parameters:
            self.options["interpolate_pos_encoding"] = True
        size = 2 * self.patch_size
        network.eval()
        try:
            states = self._hidden_states(network, torch.zeros(1, 3, size, size))
        except (TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{name!r} is a {type(network).__name__}, which gives no features of an image: "
                f"name a vision encoder such as DINOv2 or ConvNeXt ({says(error)})."
            ) from error
        super().__init__(network, tuple(state.shape[1] for state in states))

    def levels(self, images: Tensor) -> list[Tensor]:
        return self._hidden_states(self.network, images)

    def _hidden_states(self, network: nn.Module, images: Tensor) -> list[Tensor]:
        """`NUM_LEVELS` of (B, C, P) or (B, C, h, w)."""
        height, width = (max(1, round(side / self.patch_size)) for side in images.shape[-2:])
        size = (height * self.patch_size, width * self.patch_size)
        if size != tuple(images.shape[-2:]):
            images = F.interpolate(images, size=size, mode="bilinear", antialias=True)
        mean = self.mean.to(images).view(1, 3, 1, 1)
        std = self.std.to(images).view(1, 3, 1, 1)
        outputs = network(pixel_values=((images + 1) / 2 - mean) / std, **self.options)
        states = outputs.hidden_states[1:]  # the first is the embedding
        depths = [-(-len(states) * (level + 1) // NUM_LEVELS) - 1 for level in range(NUM_LEVELS)]
        chosen = [states[depth] for depth in sorted(set(depths))]
        # A convolutional network gives maps, a transformer tokens with their channels last.
        return [state if state.ndim == 4 else state.transpose(1, 2) for state in chosen]


def load_features(name: str) -> FrozenFeatures:
    """The features behind a config's `network` or `discriminator`."""
    return EfficientNetFeatures() if name == "efficientnet-lite0" else EncoderFeatures(name)


def normalisation(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation, in [0, 1] units, of an encoder's training; ImageNet's by default."""
    try:
        values, _ = ImageProcessingMixin.get_image_processor_dict(name)
    except OSError:  # the folder holds a model alone
        values = {}
    return (
        tuple(values.get("image_mean", IMAGENET_MEAN)),
        tuple(values.get("image_std", IMAGENET_STD)),
    )
