"""The dual-MLP adapter: image tokens enter the language model through their frozen code vectors."""

import torch
from torch import Tensor, nn

from tokenizer.modeling_semhitok import ImageCodes, SemHiTokModel


class DualMLPAdapter(nn.Module):
    """One MLP on the semantic code vector, one on the pixel code vector, concatenated.

    Args:
        semantic_dim, pixel_dim: widths of the code vectors.
        width: of the language model; each branch gives half.
        grid_size: rows and columns of an image, whose learned embeddings are added; None adds
            nothing, as in the paper. A small model from nothing learns shapes from it that it
            would hardly learn from the place in the sequence alone.
    """

    def __init__(self, semantic_dim: int, pixel_dim: int, width: int, grid_size: int | None = None):
        super().__init__()
        self.grid_size = grid_size
        if grid_size is not None:
            self.rows = nn.Embedding(grid_size, width)
            self.columns = nn.Embedding(grid_size, width)
        semantic_width = width // 2
        self.semantic = _mlp(semantic_dim, semantic_width)
        self.pixel = _mlp(pixel_dim, width - semantic_width)

    def forward(
        self, image_codes: Tensor, image_tokenizer: SemHiTokModel, places: Tensor
    ) -> Tensor:
        """Embed flat image codes.

        Args:
            image_codes: (n,) flat codes.
            image_tokenizer: holds the code vectors.
            places: (n,) place of each token in its image, row-major from 0.

        Returns:
            (n, width).
        """
        codes = ImageCodes.from_flat(image_codes, image_tokenizer.config.num_pixel_codes)
        vectors = image_tokenizer.code_vectors(codes)
        dtype = next(self.parameters()).dtype
        semantic_dim = image_tokenizer.config.semantic_code_dim
        semantic, pixel = vectors.to(dtype).split(
            [semantic_dim, vectors.shape[-1] - semantic_dim], -1
        )
        embeddings = torch.cat([self.semantic(semantic), self.pixel(pixel)], dim=-1)
        if self.grid_size is None:
            return embeddings
        rows = places.div(self.grid_size, rounding_mode="floor") % self.grid_size
        return embeddings + self.rows(rows) + self.columns(places % self.grid_size)


def _mlp(in_dim: int, out_dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(in_dim, out_dim), nn.GELU(), nn.Linear(out_dim, out_dim))
