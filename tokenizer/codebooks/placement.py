"""Where codes are put: k-means over the first batches, and random vectors for the dead.

Every rank gathers the same vectors and draws the same random numbers, so the codebooks of all ranks
stay equal bit for bit.

Shapes: n vectors, G groups, C codes in each group, D code dimension.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from tokenizer.model.codebook import GroupedCodebook

# Vectors, over all ranks, that dead codes of one step are placed on. Gathering a whole batch of
# many ranks would cost more than the step; who finds no vector now finds one in a later step.
MAX_CANDIDATES = 65_536


@torch.no_grad()
def kmeans(
    codebook: GroupedCodebook,
    vectors: Tensor,
    groups: Tensor | None,
    seed: int,
    num_iterations: int = 10,
) -> Tensor:
    """Place the codes by k-means within each group; a group without vectors keeps its codes.

    Args:
        codebook: its codes are written in place.
        vectors: (n, D) of this rank; gathered over ranks.
        groups: (n,) int64 in [0, G), None for one group.
        seed: of the random vectors that the search starts from, and that empty clusters move to.
        num_iterations: BEiT-v2 takes 10.

    Returns:
        (G, C) average hits of each code per batch of as many vectors as there are codes.
    """
    vectors = gather(codebook.normalize(vectors))
    groups = None if groups is None else gather(groups)
    generator = torch.Generator().manual_seed(seed)
    everywhere = torch.ones(codebook.codes.shape[:2], dtype=torch.bool, device=vectors.device)
    place(codebook, everywhere, vectors, groups, generator)
    for _ in range(num_iterations):
        counts, sums = accumulate(codebook, vectors, codebook.nearest(vectors, groups), groups)
        move_to_means(codebook, counts, sums)
        place(codebook, counts == 0, vectors, groups, generator)
    counts, _ = accumulate(codebook, vectors, codebook.nearest(vectors, groups), groups)
    return counts * (counts.numel() / max(1, len(vectors)))


@torch.no_grad()
def revive(
    codebook: GroupedCodebook,
    dead: Tensor,
    vectors: Tensor,
    groups: Tensor | None,
    seed: int,
) -> Tensor:
    """Put the dead codes (G, C) onto random vectors of this step, each within its own group.

    Args:
        codebook: its codes are written in place.
        dead: (G, C) bool, equal on all ranks.
        vectors: (n, D) of this rank, already normalised; n is equal on all ranks.
        groups: (n,) int64 in [0, G), None for one group.
        seed: of the choice; equal on all ranks, another one in each step.

    Returns:
        (G, C) bool, which codes were placed: those whose statistics the caller resets.
    """
    generator = torch.Generator().manual_seed(seed)
    share = MAX_CANDIDATES // num_ranks()
    if len(vectors) > share:
        chosen = torch.randperm(len(vectors), generator=generator)[:share].to(vectors.device)
        vectors, groups = vectors[chosen], None if groups is None else groups[chosen]
    groups = None if groups is None else gather(groups)
    return place(codebook, dead, gather(vectors), groups, generator)


def place(
    codebook: GroupedCodebook,
    chosen: Tensor,
    vectors: Tensor,
    groups: Tensor | None,
    generator: torch.Generator,
) -> Tensor:
    """Put the `chosen` (G, C) codes onto random vectors of their own group; return which it could.

    No two codes get the same vector; codes beyond the vectors of their group stay where they are.
    """
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
    codebook.codes[group_index, code_index] = vectors[picked]
    return possible


def accumulate(
    codebook: GroupedCodebook, vectors: Tensor, codes: Tensor, groups: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Counts (G, C) and sums (G, C, D) of the (n, D) vectors that chose each code."""
    shape = codebook.codes.shape
    flat = codes if groups is None else groups * shape[1] + codes
    counts = torch.bincount(flat, minlength=shape[0] * shape[1]).to(vectors.dtype)
    sums = vectors.new_zeros(shape[0] * shape[1], shape[2]).index_add_(0, flat, vectors)
    return counts.view(shape[:2]), sums.view(shape)


def move_to_means(codebook: GroupedCodebook, counts: Tensor, sums: Tensor) -> None:
    """Set each code to sum / count; a code that nothing has chosen stays."""
    means = codebook.normalize(sums / counts.clamp_min(1e-6).unsqueeze(-1))
    alive = (counts > 1e-6).unsqueeze(-1)
    codebook.codes.copy_(torch.where(alive, means, codebook.codes))


def sum_over_ranks(*tensors: Tensor) -> None:
    """Add the float tensors of all ranks, in place, in one message."""
    if num_ranks() == 1:
        return
    joint = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(joint)
    for tensor, total in zip(tensors, joint.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(total.view_as(tensor))


def gather(tensor: Tensor) -> Tensor:
    """Concatenate a tensor of equal shape over ranks, in rank order."""
    if num_ranks() == 1:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(num_ranks())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def num_ranks() -> int:
    """Ranks of this training; 1 without distribution."""
    return dist.get_world_size() if dist.is_initialized() else 1
