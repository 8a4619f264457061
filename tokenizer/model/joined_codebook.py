"""One code for two vectors: the flat codebook that the hierarchy is compared with."""

import torch
from torch import Tensor, nn

from tokenizer.model.codebook import GroupedCodebook


class JoinedCodebook(GroupedCodebook):
    """One group of K codes, each a semantic and a pixel code vector side by side.

    A patch takes the code nearest to both of its vectors together, and each half keeps its own
    metric. The codes are a copy, (1, K, D_semantic + D_pixel); `push` writes them back into the two
    codebooks, which a saved model holds.

    Args:
        semantic: (1, K, D_semantic).
        pixel: (K, 1, D_pixel).
    """

    def __init__(self, semantic: GroupedCodebook, pixel: GroupedCodebook):
        # Before the base class, whose constructor normalises.
        self._halves = semantic, pixel  # a tuple: not sub-modules, the model saves them
        self._dims = [semantic.codes.shape[-1], pixel.codes.shape[-1]]
        # Euclidean over both: where a half is cosine, its codes and vectors have length one.
        super().__init__(1, 1, sum(self._dims), "euclidean")
        joined = torch.cat([semantic.codes[0], pixel.codes[:, 0]], dim=-1)
        self.codes = nn.Parameter(joined.detach().unsqueeze(0), requires_grad=False)

    def normalize(self, vectors: Tensor) -> Tensor:
        """Each half of (..., D_semantic + D_pixel) normalised for its own metric, in float32."""
        parts = vectors.split(self._dims, dim=-1)
        pairs = zip(self._halves, parts, strict=True)
        return torch.cat([half.normalize(part) for half, part in pairs], dim=-1)

    @torch.no_grad()
    def push(self) -> None:
        """Write the codes back into the two codebooks that they came from."""
        semantic, pixel = self.codes[0].split(self._dims, dim=-1)
        self._halves[0].codes.copy_(semantic.unsqueeze(0))
        self._halves[1].codes.copy_(pixel.unsqueeze(1))
