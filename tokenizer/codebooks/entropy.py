"""The entropy loss: every vector sure of its code, and all codes wanted by some vector.

    loss = mean over vectors of H(p(code | vector)) - H(mean over vectors of p(code | vector))

with p the softmax of -|v - c|² / temperature (MaskGIT, arXiv 2202.04200; LFQ, arXiv 2310.05737). In
a grouped codebook both terms are taken within the group of each vector, the second one weighted by
its fraction of the vectors: the lowest value is -log C, where each group uses its C codes alike.

Shapes: n vectors, G groups, C codes in each group, D code dimension.
"""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from runtime.rank_group import num_ranks, sum_over_ranks
from tokenizer.model.codebook import MAX_SCORES, GroupedCodebook


def entropy_loss(
    codebook: GroupedCodebook,
    vectors: Tensor,
    groups: Tensor | None = None,
    temperature: float = 0.01,
) -> Tensor:
    """Entropy within vectors minus entropy over vectors, in nats: a scalar in [-log C, log C].

    Its gradient, averaged over ranks, is that of one process with the joint batch.

    Args:
        codebook: its codes get a gradient only where they ask for one.
        vectors: (n, D), already passed through `normalize`.
        groups: (n,) int64 in [0, G); None when there is one group.
        temperature: of the soft assignment, in squared distance; MaskGIT and IBQ take 0.01.
    """
    num_groups, num_codes, code_dim = codebook.codes.shape
    if groups is None:
        groups = torch.zeros(len(vectors), dtype=torch.int64, device=vectors.device)
    rows = max(1, MAX_SCORES // (num_codes if num_groups == 1 else num_codes * code_dim))
    entropy, hits = vectors.new_zeros(()), vectors.new_zeros(num_groups, num_codes)
    with torch.autocast(vectors.device.type, enabled=False):
        # Each chunk is computed again in the backward pass: a large codebook would keep several
        # (n, C) arrays otherwise.
        for part, own in zip(vectors.float().split(rows), groups.split(rows), strict=True):
            parts = checkpoint(
                soft_assignments, codebook, part, own, temperature, use_reentrant=False
            )
            entropy, hits = entropy + parts[0], hits + parts[1]
        counts = torch.bincount(groups, minlength=num_groups).to(hits.dtype)
        total = hits.detach().clone()
        sum_over_ranks(counts, total)
        # The value of all ranks, the gradient of this one; data parallelism averages gradients.
        hits = total + num_ranks() * (hits - hits.detach())
        mean = hits / counts.clamp_min(1).unsqueeze(1)
        # Underflowing probabilities have the entropy 0 and must not have the slope of 0 · log 0.
        over_vectors = -(mean * mean.clamp_min(1e-10).log()).sum(1)
        return entropy / len(vectors) - (over_vectors * counts).sum() / counts.sum()


def soft_assignments(
    codebook: GroupedCodebook, vectors: Tensor, groups: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Summed entropy, a scalar, and summed probabilities (G, C) of (n, D) vectors."""
    num_groups, num_codes, _ = codebook.codes.shape
    table = codebook.normalize(codebook.codes[0] if num_groups == 1 else codebook.codes[groups])
    # -|v - c|² up to the constant |v|², which a softmax drops.
    log_p = (2 / temperature * codebook.scores(vectors, table)).log_softmax(-1)
    p = log_p.exp()
    return -(p * log_p).sum(), p.new_zeros(num_groups, num_codes).index_add(0, groups, p)
