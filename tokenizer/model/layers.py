"""Transformer trunks, patch stems and pixel heads that the encoders and decoders are built from.

Shapes: B batch, N = h·w image positions (row-major), D width, H·W pixels, p patch size.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipEncoder


class GridPositions(nn.Module):
    """Learned two-dimensional position embeddings, interpolated for another grid.

    At the native grid the table is added untouched, so the native size is reproduced exactly.
    """

    def __init__(self, grid_size: int, width: int):
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, width, grid_size, grid_size) * 0.02)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Add positions to (B, N, D) tokens that lie row-major on a `grid` of (h, w)."""
        table: Tensor = self.table
        if tuple(table.shape[-2:]) != grid:
            table = F.interpolate(table.float(), size=grid, mode="bicubic", antialias=True)
        return tokens + table.flatten(2).transpose(1, 2).to(tokens.dtype)


class Trunk(nn.Module):
    """Linear in → positions → pre-norm transformer blocks → norm; (B, N, in) → (B, N, width)."""

    def __init__(self, in_dim: int, width: int, num_layers: int, num_heads: int, grid_size: int):
        super().__init__()
        blocks = SiglipVisionConfig(
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=num_layers,
            num_attention_heads=num_heads,
        )
        blocks._attn_implementation = "sdpa"
        self.embed = nn.Linear(in_dim, width)
        self.positions = GridPositions(grid_size, width)
        self.blocks = SiglipEncoder(blocks)
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        tokens = self.positions(self.embed(tokens), grid)
        return self.norm(self.blocks(inputs_embeds=tokens).last_hidden_state)


def feature_head(in_dim: int, hidden_dim: int, out_dim: int) -> nn.Sequential:
    """Linear–Tanh–Linear, the bottleneck head of BEiT-v2's VQ-KD."""
    return nn.Sequential(nn.Linear(in_dim, hidden_dim), nn.Tanh(), nn.Linear(hidden_dim, out_dim))


class ConvStem(nn.Module):
    """Stride-2 convolutions down to the patch grid; (B, 3, H, W) → (B, N, D).

    Overlapping windows carry edges across patch borders; on small data this learns several times
    faster than cutting patches with one linear layer.
    """

    def __init__(self, width: int, patch_size: int, base_width: int = 16):
        super().__init__()
        widths = [3, *(min(width, base_width * 2**i) for i in range(num_halvings(patch_size)))]
        layers: list[nn.Module] = []
        for in_dim, out_dim in pairwise(widths):
            layers += [nn.Conv2d(in_dim, out_dim, 3, stride=2, padding=1), nn.GELU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], width, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).flatten(2).transpose(1, 2)


class PatchStem(nn.Module):
    """One linear map per patch, as in ViT; (B, 3, H, W) → (B, N, D)."""

    def __init__(self, width: int, patch_size: int):
        super().__init__()
        self.project = nn.Conv2d(3, width, patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        return self.project(images).flatten(2).transpose(1, 2)


class ConvHead(nn.Module):
    """Pixel-shuffle up-sampling from the patch grid; (B, N, D) → (B, 3, H, W)."""

    def __init__(self, width: int, patch_size: int, base_width: int = 16):
        super().__init__()
        steps = reversed(range(num_halvings(patch_size)))
        widths = [width, *(min(width, base_width * 2**i) for i in steps)]
        layers: list[nn.Module] = []
        for in_dim, out_dim in pairwise(widths):
            layers += [nn.Conv2d(in_dim, 4 * out_dim, 3, padding=1), nn.PixelShuffle(2), nn.GELU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 3, 3, padding=1))

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        return self.layers(tokens.transpose(1, 2).unflatten(2, grid))


class PatchHead(nn.Module):
    """One linear map per patch; (B, N, D) → (B, 3, H, W)."""

    def __init__(self, width: int, patch_size: int):
        super().__init__()
        self.patch_size = patch_size
        self.project = nn.Linear(width, 3 * patch_size**2)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        pixels = self.project(tokens).transpose(1, 2).unflatten(2, grid)
        return F.pixel_shuffle(pixels, self.patch_size)


def num_halvings(patch_size: int) -> int:
    """How often convolutions halve an image until one position is left per patch.

    A `ValueError` if the patch size is no power of two.
    """
    number = int(math.log2(patch_size))
    if 2**number != patch_size:
        raise ValueError(
            f"Convolutions halve the image until one position is left per patch, so patch_size "
            f"must be a power of two, not {patch_size}; use a 'vit' with 'patch' stem and head."
        )
    return number


STEMS: dict[str, type[nn.Module]] = {"conv": ConvStem, "patch": PatchStem}
HEADS: dict[str, type[nn.Module]] = {"conv": ConvHead, "patch": PatchHead}
