"""The dual-MLP adapter: image tokens enter the language model through their frozen code vectors."""

import torch
from torch import Tensor, nn

from tokenizer.modeling_semhitok import ImageCodes, SemHiTokModel


class DualMLPAdapter(nn.Module):
    """One MLP on the semantic code vector, one on the pixel code vector, concatenated.

    Args:
        semantic_dim, pixel_dim: widths of the code vectors.
        width: of the language model; each branch gives half.
    """

    def __init__(self, semantic_dim: int, pixel_dim: int, width: int):
        super().__init__()
        semantic_width = width // 2
        self.semantic = _mlp(semantic_dim, semantic_width)
        self.pixel = _mlp(pixel_dim, width - semantic_width)

    def forward(self, image_codes: Tensor, image_tokenizer: SemHiTokModel) -> Tensor:
        """Flat image codes (...) → embeddings (..., width)."""
        codes = ImageCodes.from_flat(image_codes, image_tokenizer.config.num_pixel_codes)
        vectors = image_tokenizer.code_vectors(codes)
        dtype = next(self.parameters()).dtype
        semantic_dim = image_tokenizer.config.semantic_code_dim
        semantic, pixel = vectors.to(dtype).split(
            [semantic_dim, vectors.shape[-1] - semantic_dim], -1
        )
        return torch.cat([self.semantic(semantic), self.pixel(pixel)], dim=-1)


def _mlp(in_dim: int, out_dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(in_dim, out_dim), nn.GELU(), nn.Linear(out_dim, out_dim))
