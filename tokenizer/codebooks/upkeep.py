"""What both ways to train a codebook share: k-means at the start, counts, and revival of the dead.

Every rank sees the same counts (all-reduced) and the same random choices (drawn from the step), so
the codebooks of all ranks stay equal bit for bit.

Shapes: n vectors, G groups, C codes in each group, D code dimension.
"""

import torch
from torch import Tensor, nn

from tokenizer.codebooks.placement import kmeans, revive
from tokenizer.model.codebook import GroupedCodebook


class CodebookUpkeep(nn.Module):
    """Counts how often each code is chosen, and puts those that nothing chooses elsewhere.

    Args:
        codebook: the codebook to keep; its `codes` are written in place.
        decay: weight of the past in the average counts (BEiT-v2 and DualToken use 0.99).
        revive_below: a code whose average count per update sinks below this is put onto a random
            vector of its own group, with a fresh count.
        seed: of the random choices.

    Attributes:
        counts: (G, C) average count per update.
        num_updates: () int64.
        placed: (G, C) whether a code was put elsewhere since the average of the weights (EMA) last
            looked; not part of a checkpoint.
    """

    counts: Tensor
    num_updates: Tensor
    placed: Tensor

    def __init__(
        self,
        codebook: GroupedCodebook,
        decay: float = 0.99,
        revive_below: float = 0.05,
        seed: int = 0,
    ):
        super().__init__()
        self._codebook = [codebook]  # in a list: not a sub-module, its codes are saved by the model
        self.decay = decay
        self.revive_below = revive_below
        self.seed = seed
        shape = codebook.codes.shape[:2]
        self.register_buffer("counts", torch.ones(shape))
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))
        self.register_buffer("placed", torch.zeros(shape, dtype=torch.bool), persistent=False)
        self.prepare(codebook)

    def prepare(self, codebook: GroupedCodebook) -> None:
        """What a way to train adds to the constructor."""

    @property
    def codebook(self) -> GroupedCodebook:
        return self._codebook[0]

    @torch.no_grad()
    def kmeans_start(
        self, vectors: Tensor, groups: Tensor | None = None, num_iterations: int = 10
    ) -> None:
        """Place the codes by k-means over the first batches.

        Args:
            vectors: (n, D) of this rank; gathered over ranks.
            groups: (n,) int64, None for one group.
            num_iterations: of k-means.
        """
        counts = kmeans(self.codebook, vectors, groups, self.seed, num_iterations)
        self.counts.copy_(counts.clamp_min(self.revive_below))
        self.placed.fill_(True)

    @torch.no_grad()
    def update(self, vectors: Tensor, codes: Tensor, groups: Tensor | None = None) -> int:
        """Follow a step of training, then revive the dead.

        Args:
            vectors: (n, D) encoder outputs of this rank, before quantisation.
            codes: (n,) int64 that they chose.
            groups: (n,) int64, None for one group.

        Returns:
            How many codes were revived.
        """
        raise NotImplementedError

    def revive_dead(self, vectors: Tensor, groups: Tensor | None) -> Tensor:
        """Count an update, and put the codes whose counts have sunk onto vectors of their groups.

        Args:
            vectors: (n, D) of this rank, normalised for the metric.
            groups: (n,) int64, None for one group.

        Returns:
            (G, C) bool, the codes that were put elsewhere.
        """
        self.num_updates += 1
        dead = self.counts < self.revive_below
        if not bool(dead.any()):
            return dead
        seed = self.seed + 1 + int(self.num_updates)
        placed = revive(self.codebook, dead, vectors, groups, seed)
        self.placed |= placed
        self.counts[placed] = 1.0
        return placed
