"""Moving-average training of a codebook (BEiT-v2, DualToken).

The statistics live here and not in the model: a released checkpoint carries codes alone, a
training checkpoint carries both (this is an `nn.Module`, so `state_dict` has them).

Every rank sees the same sums (all-reduced) and the same random choices (drawn from the step),
so the codebooks of all ranks stay equal bit for bit.

Shapes: n vectors, G groups, C codes in each group, D code dimension.
"""

import torch
from torch import Tensor, nn

from tokenizer.codebook import GroupedCodebook
from tokenizer.codebook_placement import accumulate, kmeans, move_to_means, revive, sum_over_ranks


class CodebookEMA(nn.Module):
    """Keeps each code at the moving average of the vectors that chose it.

    Args:
        codebook: the codebook to move; its `codes` are written in place.
        decay: weight of the past in every update (BEiT-v2 and DualToken use 0.99).
        revive_below: a code whose average count per update sinks below this is put onto a random
            vector of its own group, with fresh statistics (old sums would overwrite it again).
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
        self._codebook = [codebook]  # in a list: not a sub-module, its codes are saved by the model
        self.decay = decay
        self.revive_below = revive_below
        self.seed = seed
        num_groups, num_codes, _ = codebook.codes.shape
        self.register_buffer("counts", torch.ones(num_groups, num_codes))
        self.register_buffer("sums", codebook.codes.detach().clone())
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))
        # Codes put elsewhere since the average of the weights (EMA) last looked.
        placed = torch.zeros(codebook.codes.shape[:2], dtype=torch.bool)
        self.register_buffer("placed", placed, persistent=False)
        self.counts: Tensor
        self.sums: Tensor
        self.num_updates: Tensor
        self.placed: Tensor

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
        self.sums.copy_(self.codebook.codes * self.counts.unsqueeze(-1))

    @torch.no_grad()
    def update(self, vectors: Tensor, codes: Tensor, groups: Tensor | None = None) -> int:
        """Move the codes towards the vectors that chose them, then revive the dead.

        Args:
            vectors: (n, D) encoder outputs of this rank, before quantisation.
            codes: (n,) int64 that they chose.
            groups: (n,) int64, None for one group.

        Returns:
            How many codes were revived.
        """
        vectors = self.codebook.normalize(vectors.detach())
        counts, sums = accumulate(self.codebook, vectors, codes, groups)
        sum_over_ranks(counts, sums)
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        move_to_means(self.codebook, self.counts, self.sums)
        self.num_updates += 1
        dead = self.counts < self.revive_below
        if not bool(dead.any()):
            return 0
        seed = self.seed + 1 + int(self.num_updates)
        placed = revive(self.codebook, dead, vectors, groups, seed)
        self.placed |= placed
        self.counts[placed] = 1.0
        self.sums[placed] = self.codebook.codes[placed]
        return int(placed.sum())
