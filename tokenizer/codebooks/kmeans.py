"""Where codes are put: k-means over the first batches, and random vectors for dead codes.

Every rank gathers the same vectors and draws the same random numbers, so the codebooks of all ranks
stay equal bit for bit.

Shapes: n vectors, G groups, C codes in each group, D code dimension.
"""

import torch
from torch import Tensor

from runtime.rank_group import gather_tensor, num_ranks
from tokenizer.model.codebook import GroupedCodebook

# Vectors, over all ranks, that the dead codes of one step may restart on. Gathering a whole batch
# of many ranks would cost more than the step; a code that finds no vector now finds one later.
MAX_CANDIDATES = 65_536
NUM_ITERATIONS = 10  # as in BEiT-v2


@torch.no_grad()
def kmeans(codebook: GroupedCodebook, vectors: Tensor, groups: Tensor | None, seed: int) -> Tensor:
    """Place the codes by k-means within each group; a group without vectors keeps its codes.

    Args:
        codebook: its codes are written in place.
        vectors: (n, D) of this rank; gathered over ranks.
        groups: (n,) int64 in [0, G), None for one group.
        seed: of the random vectors that the search starts from, and that empty clusters move to.

    Returns:
        (G, C) average hits of each code per batch of as many vectors as there are codes.
    """
    vectors = gather_tensor(codebook.normalize(vectors))
    groups = None if groups is None else gather_tensor(groups)
    generator = torch.Generator().manual_seed(seed)
    everywhere = torch.ones(codebook.codes.shape[:2], dtype=torch.bool, device=vectors.device)
    _place(codebook, everywhere, vectors, groups, generator)
    for _ in range(NUM_ITERATIONS):
        codes = codebook.nearest(vectors, groups)
        counts = count_hits(codebook, codes, groups)
        move_to_means(codebook, counts, sum_vectors(codebook, vectors, codes, groups))
        _place(codebook, counts == 0, vectors, groups, generator)
    counts = count_hits(codebook, codebook.nearest(vectors, groups), groups)
    return counts * (counts.numel() / max(1, len(vectors)))


@torch.no_grad()
def restart(
    codebook: GroupedCodebook, dead: Tensor, vectors: Tensor, groups: Tensor | None, seed: int
) -> Tensor:
    """Put the dead codes onto random vectors of this step, each within its own group.

    Args:
        codebook: its codes are written in place.
        dead: (G, C) bool, equal on all ranks.
        vectors: (n, D) of this rank, already normalised; n is equal on all ranks.
        groups: (n,) int64 in [0, G), None for one group.
        seed: equal on all ranks, another one in each step.

    Returns:
        (G, C) bool, the codes that found a vector.
    """
    generator = torch.Generator().manual_seed(seed)
    most = MAX_CANDIDATES // num_ranks()
    if len(vectors) > most:
        chosen = torch.randperm(len(vectors), generator=generator)[:most].to(vectors.device)
        vectors, groups = vectors[chosen], None if groups is None else groups[chosen]
    groups = None if groups is None else gather_tensor(groups)
    return _place(codebook, dead, gather_tensor(vectors), groups, generator)


def count_hits(codebook: GroupedCodebook, codes: Tensor, groups: Tensor | None = None) -> Tensor:
    """(G, C) float32, how often each code occurs in `codes` (n,) of `groups` (n,)."""
    shape = codebook.codes.shape[:2]
    counts = torch.bincount(_flat(codebook, codes, groups), minlength=shape.numel())
    return counts.to(torch.float32).view(shape)


def sum_vectors(
    codebook: GroupedCodebook, vectors: Tensor, codes: Tensor, groups: Tensor | None
) -> Tensor:
    """(G, C, D), the sum of the (n, D) vectors that chose each code."""
    shape = codebook.codes.shape
    sums = vectors.new_zeros(shape[:2].numel(), shape[2])
    return sums.index_add_(0, _flat(codebook, codes, groups), vectors).view(shape)


def move_to_means(codebook: GroupedCodebook, counts: Tensor, sums: Tensor) -> None:
    """Set each code to sum / count; a code that nothing has chosen stays."""
    means = codebook.normalize(sums / counts.clamp_min(1e-6).unsqueeze(-1))
    alive = (counts > 1e-6).unsqueeze(-1)
    codebook.codes.copy_(torch.where(alive, means, codebook.codes))


def _flat(codebook: GroupedCodebook, codes: Tensor, groups: Tensor | None) -> Tensor:
    return codes if groups is None else groups * codebook.codes.shape[1] + codes


def _place(
    codebook: GroupedCodebook,
    chosen: Tensor,
    vectors: Tensor,
    groups: Tensor | None,
    generator: torch.Generator,
) -> Tensor:
    """Put the `chosen` (G, C) codes onto random vectors of their group; return which got one.

    No two codes get the same vector; where a group has too few, its last codes stay where they are.
    """
    order = torch.randperm(len(vectors), generator=generator).to(vectors.device)
    vectors = vectors[order]
    groups = torch.zeros_like(order) if groups is None else groups[order]
    # Give the r-th chosen code of a group the r-th vector of that group.
    by_group = torch.argsort(groups, stable=True)
    num_vectors = torch.bincount(groups, minlength=chosen.shape[0])
    first = num_vectors.cumsum(0) - num_vectors
    rank = chosen.cumsum(1) - 1
    possible = chosen & (rank < num_vectors.unsqueeze(1))
    group_index, code_index = possible.nonzero(as_tuple=True)
    picked = by_group[first[group_index] + rank[group_index, code_index]]
    codebook.codes[group_index, code_index] = vectors[picked]
    return possible
