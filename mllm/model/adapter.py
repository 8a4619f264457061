"""How image tokens enter the language model: through their frozen code vectors, or as plain rows.

Both can also add where in its image a token stands.
"""

import torch
from torch import Tensor, nn

from mllm.model.configuration_unified import UnifiedConfig
from tokenizer.model.modeling_semhitok import ImageCodes, SemHiTokModel


def make_adapter(config: UnifiedConfig) -> "DualMLPAdapter | PlainRows":
    """The untrained way in that a model's config asks for."""
    image, width = config.image_tokenizer_config, config.text_config.hidden_size
    grid_size = image.grid_size if config.image_positions == "grid" else None
    if config.image_input == "rows":
        return PlainRows(image.num_image_codes, width, grid_size)
    return DualMLPAdapter(image.semantic_code_dim, image.pixel_code_dim, width, grid_size)


class GridPositions(nn.Module):
    """Learned embeddings of a position's row and column, which are added.

    With them a small model from nothing learns shapes that it would hardly learn from the position
    in the sequence alone. A `grid_size` of None adds nothing, as in the paper.
    """

    def __init__(self, width: int, grid_size: int | None):
        super().__init__()
        self.grid_size = grid_size
        if grid_size is not None:
            self.rows = nn.Embedding(grid_size, width)
            self.columns = nn.Embedding(grid_size, width)

    def add_positions(self, embeddings: Tensor, positions: Tensor) -> Tensor:
        """Add those of `positions` (n,), row-major from 0, to (n, D)."""
        if self.grid_size is None:
            return embeddings
        rows = positions.div(self.grid_size, rounding_mode="floor") % self.grid_size
        return embeddings + self.rows(rows) + self.columns(positions % self.grid_size)


class PlainRows(GridPositions):
    """A trained row for each of the K·M flat codes, to compare the adapter with."""

    def __init__(self, num_image_codes: int, width: int, grid_size: int | None = None):
        super().__init__(width, grid_size)
        self.codes = nn.Embedding(num_image_codes, width)

    def forward(self, image_codes: Tensor, _: SemHiTokModel, positions: Tensor) -> Tensor:
        """See `DualMLPAdapter`."""
        return self.add_positions(self.codes(image_codes), positions)


class DualMLPAdapter(GridPositions):
    """One MLP on the semantic code vector, one on the pixel code vector, each of half the width."""

    def __init__(self, semantic_dim: int, pixel_dim: int, width: int, grid_size: int | None = None):
        super().__init__(width, grid_size)
        semantic_width = width // 2
        self.semantic = _mlp(semantic_dim, semantic_width)
        self.pixel = _mlp(pixel_dim, width - semantic_width)

    def forward(
        self, image_codes: Tensor, image_tokenizer: SemHiTokModel, positions: Tensor
    ) -> Tensor:
        """(n,) flat codes at (n,) `positions` of their image, row-major from 0 → (n, width)."""
        config = image_tokenizer.config
        vectors = image_tokenizer.code_vectors(
            ImageCodes.from_flat(image_codes, config.num_pixel_codes)
        ).to(next(self.parameters()).dtype)
        semantic, pixel = vectors.split([config.semantic_code_dim, config.pixel_code_dim], -1)
        embeddings = torch.cat([self.semantic(semantic), self.pixel(pixel)], dim=-1)
        return self.add_positions(embeddings, positions)


def _mlp(in_dim: int, out_dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(in_dim, out_dim), nn.GELU(), nn.Linear(out_dim, out_dim))
