"""Training of a codebook by the optimiser (VQGAN): the codebook loss moves the codes.

What is left to do beside the loss is to place the codes by k-means and to revive dead ones, for
which the hits of each code are counted. Under data parallelism the codes' gradient is averaged over
ranks like any other, and hits are summed, so the codebooks of all ranks stay equal bit for bit.

Shapes: n vectors, G groups, C codes in each group, D code dimension.
"""

import torch
from torch import Tensor, nn

from tokenizer.codebook import GroupedCodebook
from tokenizer.codebook_placement import kmeans, revive, sum_over_ranks


class CodebookGradient(nn.Module):
    """Opens a codebook to the optimiser, counts the hits of its codes and revives the dead.

    Adam's moments of a code fade while nothing chooses it, long before it counts as dead, so a
    revived code needs no reset there.

    Args:
        codebook: its `codes` get a gradient, and are written in place by k-means and revival.
        decay: weight of the past in the average of the hits.
        revive_below: a code whose average count per update sinks below this is put onto a random
            vector of its own group, with a fresh count.
        seed: of the random choices.
    """

    def __init__(
        self,
        codebook: GroupedCodebook,
        decay: float = 0.99,
        revive_below: float = 0.05,
        seed: int = 0,
    ):
        super().__init__()
        codebook.codes.requires_grad_(True)
        self._codebook = [codebook]  # in a list: not a sub-module, its codes are saved by the model
        self.decay = decay
        self.revive_below = revive_below
        self.seed = seed
        self.register_buffer("counts", torch.ones(codebook.codes.shape[:2]))
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))
        # Codes put elsewhere since the average of the weights (EMA) last looked.
        placed = torch.zeros(codebook.codes.shape[:2], dtype=torch.bool)
        self.register_buffer("placed", placed, persistent=False)
        self.counts: Tensor
        self.num_updates: Tensor
        self.placed: Tensor

    @property
    def codebook(self) -> GroupedCodebook:
        return self._codebook[0]

    @torch.no_grad()
    def kmeans_start(
        self, vectors: Tensor, groups: Tensor | None = None, num_iterations: int = 10
    ) -> None:
        """Place the codes by k-means over the first batches, as `CodebookEMA.kmeans_start`."""
        counts = kmeans(self.codebook, vectors, groups, self.seed, num_iterations)
        self.counts.copy_(counts.clamp_min(self.revive_below))
        self.placed.fill_(True)

    @torch.no_grad()
    def update(self, vectors: Tensor, codes: Tensor, groups: Tensor | None = None) -> int:
        """Count hits and revive the dead, after the optimiser's step.

        Args:
            vectors: (n, D) encoder outputs of this rank, before quantisation.
            codes: (n,) int64 that they chose.
            groups: (n,) int64, None for one group.

        Returns:
            How many codes were revived.
        """
        flat = codes if groups is None else groups * self.counts.shape[1] + codes
        counts = torch.bincount(flat, minlength=self.counts.numel()).to(self.counts.dtype)
        sum_over_ranks(counts)
        self.counts.lerp_(counts.view_as(self.counts), 1 - self.decay)
        self.num_updates += 1
        dead = self.counts < self.revive_below
        if not bool(dead.any()):
            return 0
        seed = self.seed + 1 + int(self.num_updates)
        vectors = self.codebook.normalize(vectors.detach())
        placed = revive(self.codebook, dead, vectors, groups, seed)
        self.placed |= placed
        self.counts[placed] = 1.0
        return int(placed.sum())
