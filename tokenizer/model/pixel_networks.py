"""The networks between pixels and pixel code vectors, in two families.

`vit` is a transformer on the patch grid between a stem and a head; `conv` a convolutional network
with attention at the patch grid, LlamaGen's (arXiv 2406.06525), whose blocks transformers has as
part of Janus. Both take any size that the patch divides.

Shapes: B batch, N = h·w image positions (row-major), D width, H·W pixels, p patch size.
"""

from torch import Tensor, nn
from transformers.models.janus.configuration_janus import JanusVQVAEConfig
from transformers.models.janus.modeling_janus import JanusVQVAEDecoder, JanusVQVAEEncoder

from tokenizer.model.configuration_semhitok import SemHiTokConfig
from tokenizer.model.layers import HEADS, STEMS, Trunk, feature_head, num_halvings


class PixelEncoder(nn.Module):
    """Images (B, 3, H, W) in [-1, 1] → unquantised pixel vectors (B, N, D_pixel): `vit`."""

    def __init__(self, config: SemHiTokConfig):
        super().__init__()
        width, num_heads = config.pixel_hidden_size, config.pixel_attention_heads
        self.stem = STEMS[config.pixel_stem](width, config.patch_size)
        self.trunk = Trunk(width, width, config.pixel_encoder_layers, num_heads, config.grid_size)
        self.head = feature_head(width, width, config.pixel_code_dim)

    def forward(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        return self.head(self.trunk(self.stem(images), grid))


class ConvPixelEncoder(nn.Module):
    """Images (B, 3, H, W) in [-1, 1] → unquantised pixel vectors (B, N, D_pixel): `conv`."""

    def __init__(self, config: SemHiTokConfig):
        super().__init__()
        width, num_blocks = config.pixel_hidden_size, config.pixel_encoder_layers
        if num_blocks < 1:  # they widen the channels between two halvings
            raise ValueError("pixel_encoder_layers of a convolutional network must be at least 1.")
        code_dim = config.pixel_code_dim
        sizes = _conv_config("pixel", width, num_blocks, config.patch_size, code_dim)
        self.layers = JanusVQVAEEncoder(sizes)

    def forward(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        return self.layers(images).flatten(2).transpose(1, 2)


class CodeDecoder(nn.Module):
    """Joint code vectors (B, N, D_semantic + D_pixel) → images (B, 3, H, W) in about [-1, 1]."""

    def __init__(self, config: SemHiTokConfig, width: int, num_layers: int, num_heads: int):
        super().__init__()
        code_dim = config.semantic_code_dim + config.pixel_code_dim
        self.trunk = Trunk(code_dim, width, num_layers, num_heads, config.grid_size)
        self.head = HEADS[config.decoder_head](width, config.patch_size)

    def forward(self, code_vectors: Tensor, grid: tuple[int, int]) -> Tensor:
        return self.head(self.trunk(code_vectors, grid), grid)


class ConvCodeDecoder(nn.Module):
    """Joint code vectors (B, N, D_semantic + D_pixel) → images (B, 3, H, W): `conv`."""

    def __init__(self, config: SemHiTokConfig, part: str, width: int, num_blocks: int):
        super().__init__()
        code_dim = config.semantic_code_dim + config.pixel_code_dim
        sizes = _conv_config(part, width, num_blocks, config.patch_size, code_dim)
        self.layers = JanusVQVAEDecoder(sizes)

    def forward(self, code_vectors: Tensor, grid: tuple[int, int]) -> Tensor:
        return self.layers(code_vectors.transpose(1, 2).unflatten(2, grid))


def pixel_encoder(config: SemHiTokConfig) -> nn.Module:
    """The pixel encoder of the config's family; called with (images, grid)."""
    if config.pixel_encoder_kind == "conv":
        return ConvPixelEncoder(config)
    return PixelEncoder(config)


def code_decoder(config: SemHiTokConfig, part: str) -> nn.Module:
    """The "decoder" or "enhance_decoder" of the config; called with (code_vectors, grid)."""
    width, num_layers = (getattr(config, f"{part}_{name}") for name in ("hidden_size", "layers"))
    if getattr(config, f"{part}_kind") == "conv":
        return ConvCodeDecoder(config, part, width, num_layers)
    return CodeDecoder(config, width, num_layers, getattr(config, f"{part}_attention_heads"))


def _conv_config(
    part: str, width: int, num_blocks: int, patch_size: int, code_dim: int
) -> JanusVQVAEConfig:
    """Widths W/4, W/4, W/2, W/2, W for a patch of 16, as in VQGAN; smaller patches start later."""
    num_levels = num_halvings(patch_size)
    quarter = 2 ** ((num_levels + 1) // 2)
    if width % (32 * quarter):  # the blocks normalise over 32 groups of channels
        raise ValueError(
            f"{part}_hidden_size of a convolutional network with patches of {patch_size} pixels "
            f"must be a multiple of {32 * quarter}, not {width}."
        )
    multipliers = [quarter // 2 ** ((left + 1) // 2) for left in range(num_levels, -1, -1)]
    return JanusVQVAEConfig(
        base_channels=width // quarter,
        channel_multiplier=multipliers,
        num_res_blocks=num_blocks,
        latent_channels=code_dim,
    )
