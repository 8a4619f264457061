"""Training of a codebook by the optimiser (VQGAN): the codebook loss moves the codes.

What is left to do beside the loss is to place the codes by k-means and to revive dead ones, for
which the hits of each code are counted. Under data parallelism the codes' gradient is averaged over
ranks like any other.

Shapes: n vectors, G groups, C codes in each group, D code dimension.
"""

import torch
from torch import Tensor

from tokenizer.codebooks.placement import sum_over_ranks
from tokenizer.codebooks.upkeep import CodebookUpkeep
from tokenizer.model.codebook import GroupedCodebook


class CodebookGradient(CodebookUpkeep):
    """Opens a codebook to the optimiser, counts the hits of its codes and revives the dead.

    Adam's moments of a code fade while nothing chooses it, long before it counts as dead, so a
    revived code needs no reset there.

    Args:
        codebook: its `codes` get a gradient.
        decay, revive_below, seed: see `CodebookUpkeep`.
    """

    def prepare(self, codebook: GroupedCodebook) -> None:
        """See `CodebookUpkeep.prepare`."""
        codebook.codes.requires_grad_(True)

    @torch.no_grad()
    def update(self, vectors: Tensor, codes: Tensor, groups: Tensor | None = None) -> int:
        """Count hits, after the optimiser's step; see `CodebookUpkeep.update`."""
        flat = codes if groups is None else groups * self.counts.shape[1] + codes
        counts = torch.bincount(flat, minlength=self.counts.numel()).to(self.counts.dtype)
        sum_over_ranks(counts)
        self.counts.lerp_(counts.view_as(self.counts), 1 - self.decay)
        vectors = self.codebook.normalize(vectors.detach())
        return int(self.revive_dead(vectors, groups).sum())
