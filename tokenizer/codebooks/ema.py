"""Moving-average training of a codebook (BEiT-v2, DualToken).

The statistics live here and not in the model: a released checkpoint carries codes alone, a
training checkpoint carries both (this is an `nn.Module`, so `state_dict` has them).

Shapes: n vectors, G groups, C codes in each group, D code dimension.
"""

import torch
from torch import Tensor

from tokenizer.codebooks.placement import accumulate, move_to_means, sum_over_ranks
from tokenizer.codebooks.upkeep import CodebookUpkeep
from tokenizer.model.codebook import GroupedCodebook


class CodebookEMA(CodebookUpkeep):
    """Keeps each code at the moving average of the vectors that chose it.

    A revived code gets fresh statistics: old sums would overwrite it again.

    Args:
        codebook, decay, revive_below, seed: see `CodebookUpkeep`.

    Attributes:
        sums: (G, C, D) average sum per update of the vectors that chose each code.
    """

    sums: Tensor

    def prepare(self, codebook: GroupedCodebook) -> None:
        """See `CodebookUpkeep.prepare`."""
        self.register_buffer("sums", codebook.codes.detach().clone())

    @torch.no_grad()
    def kmeans_start(
        self, vectors: Tensor, groups: Tensor | None = None, num_iterations: int = 10
    ) -> None:
        """See `CodebookUpkeep.kmeans_start`."""
        super().kmeans_start(vectors, groups, num_iterations)
        self.sums.copy_(self.codebook.codes * self.counts.unsqueeze(-1))

    @torch.no_grad()
    def update(self, vectors: Tensor, codes: Tensor, groups: Tensor | None = None) -> int:
        """Move the codes towards the vectors that chose them; see `CodebookUpkeep.update`."""
        vectors = self.codebook.normalize(vectors.detach())
        counts, sums = accumulate(self.codebook, vectors, codes, groups)
        sum_over_ranks(counts, sums)
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        move_to_means(self.codebook, self.counts, self.sums)
        placed = self.revive_dead(vectors, groups)
        self.sums[placed] = self.codebook.codes[placed]
        return int(placed.sum())
