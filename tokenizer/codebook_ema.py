"""Moving-average training of a codebook: k-means start, update, and revival of dead codes.

The statistics live here and not in the model: a released checkpoint carries codes alone, a
training checkpoint carries both (this is an `nn.Module`, so `state_dict` has them).

Every rank sees the same sums (all-reduced) and the same random choices (drawn from the step),
so the codebooks of all ranks stay equal bit for bit.

Shapes: n vectors, G groups, C codes in each group, D code dimension.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tokenizer.codebook import GroupedCodebook


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
        self.counts: Tensor
        self.sums: Tensor
        self.num_updates: Tensor

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
        """
        vectors = _gather(self.codebook.normalize(vectors))
        groups = None if groups is None else _gather(groups)
        generator = torch.Generator().manual_seed(self.seed)
        self._place(torch.ones_like(self.counts, dtype=torch.bool), vectors, groups, generator)
        for _ in range(num_iterations):
            counts, sums = self._statistics(vectors, groups)
            self.counts.copy_(counts)
            self.sums.copy_(sums)
            self._write_codes()
            self._place(counts == 0, vectors, groups, generator)
        counts, sums = self._statistics(vectors, groups)
        # Averages per update, as if the start had been one typical batch of one vector per code.
        scale = self.counts.numel() / max(1, len(vectors))
        self.counts.copy_((counts * scale).clamp_min(self.revive_below))
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
        counts, sums = _accumulate(self.counts, self.sums, vectors, codes, groups)
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(counts)
            dist.all_reduce(sums)
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        self._write_codes()
        self.num_updates += 1
        dead = self.counts < self.revive_below
        if not bool(dead.any()):
            return 0
        generator = torch.Generator().manual_seed(self.seed + 1 + int(self.num_updates))
        groups = None if groups is None else _gather(groups)
        return self._place(dead, _gather(vectors), groups, generator)

    def _statistics(self, vectors: Tensor, groups: Tensor | None) -> tuple[Tensor, Tensor]:
        codes = self.codebook.nearest(vectors, groups)
        return _accumulate(self.counts, self.sums, vectors, codes, groups)

    def _write_codes(self) -> None:
        means = self.sums / self.counts.clamp_min(1e-6).unsqueeze(-1)
        alive = (self.counts > 1e-6).unsqueeze(-1)
        codes = torch.where(alive, self.codebook.normalize(means), self.codebook.codes)
        self.codebook.codes.copy_(codes)

    def _place(
        self, chosen: Tensor, vectors: Tensor, groups: Tensor | None, generator: torch.Generator
    ) -> int:
        """Put the `chosen` (G, C) codes onto random vectors of their own group; return how many."""
        order = torch.randperm(len(vectors), generator=generator).to(vectors.device)
        vectors = vectors[order]
        if groups is None:
            groups = torch.zeros(len(vectors), dtype=torch.int64, device=vectors.device)
        else:
            groups = groups[order]
        # Give the r-th chosen code of a group the r-th vector of that group.
        by_group = torch.argsort(groups, stable=True)
        num_vectors = torch.bincount(groups, minlength=chosen.shape[0])
        first = num_vectors.cumsum(0) - num_vectors
        rank = chosen.cumsum(1) - 1
        possible = chosen & (rank < num_vectors.unsqueeze(1))
        group_index, code_index = possible.nonzero(as_tuple=True)
        picked = by_group[first[group_index] + rank[group_index, code_index]]
        self.codebook.codes[group_index, code_index] = vectors[picked]
        self.counts[group_index, code_index] = 1.0
        self.sums[group_index, code_index] = vectors[picked]
        return len(picked)


def _accumulate(
    counts: Tensor, sums: Tensor, vectors: Tensor, codes: Tensor, groups: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Count and sum (n, D) vectors by code, in the (G, C) and (G, C, D) shapes of the arguments."""
    flat = codes if groups is None else groups * counts.shape[1] + codes
    new_counts = torch.bincount(flat, minlength=counts.numel()).to(counts.dtype)
    new_sums = torch.zeros_like(sums).flatten(0, 1).index_add_(0, flat, vectors)
    return new_counts.view_as(counts), new_sums.view_as(sums)


def _gather(tensor: Tensor) -> Tensor:
    """Concatenate a tensor of equal shape over ranks, in rank order."""
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)
