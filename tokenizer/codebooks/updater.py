"""The statistics of a codebook in training, and all that moves its codes outside the optimiser.

With "ema" each code is the moving average of the vectors that chose it (BEiT-v2, DualToken). With
"gradient" the codebook loss moves the codes by the optimiser (VQGAN), and only the hits of each
code are counted. Both start by k-means and restart dead codes.

Every rank sees the same counts (all-reduced) and draws the same random numbers (seeded by the
step), so the codebooks of all ranks stay equal bit for bit.

Shapes: n vectors, G groups, C codes in each group, D code dimension.
"""

import torch
from torch import Tensor, nn

from runtime.rank_group import sum_over_ranks
from tokenizer.codebooks.kmeans import count_hits, kmeans, move_to_means, restart, sum_vectors
from tokenizer.codebooks.settings import CodebookSettings
from tokenizer.model.codebook import GroupedCodebook, JoinedCodebook


class CodebookUpdater(nn.Module):
    """Moves a codebook after each step of training, and restarts codes that nothing chooses.

    It is a module of its own, so that a released model carries codes alone, and a training
    checkpoint codes and statistics.

    Args:
        codebook: its `codes` are written in place; with "gradient" they get a gradient too.
        settings: how they move.
        seed: of k-means and restarts.

    Attributes:
        counts: (G, C) average hits per step.
        sums: (G, C, D) average sum per step of the vectors that chose each code; with "ema" alone.
        num_updates: () int64.
        moved: (G, C) whether a code was started or restarted since the average of the weights last
            looked; not part of a checkpoint.
    """

    counts: Tensor
    sums: Tensor
    num_updates: Tensor
    moved: Tensor

    def __init__(self, codebook: GroupedCodebook, settings: CodebookSettings, seed: int = 0):
        super().__init__()
        self._codebook = [codebook]  # in a list: not a sub-module, since the model saves it
        self.settings = settings
        self.seed = seed
        self.averages = settings.update == "ema"
        shape = codebook.codes.shape[:2]
        self.register_buffer("counts", torch.ones(shape))
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))
        self.register_buffer("moved", torch.zeros(shape, dtype=torch.bool), persistent=False)
        if self.averages:
            self.register_buffer("sums", codebook.codes.detach().clone())
        else:
            codebook.codes.requires_grad_(True)

    @property
    def codebook(self) -> GroupedCodebook:
        return self._codebook[0]

    @torch.no_grad()
    def start(self, vectors: Tensor, groups: Tensor | None = None) -> None:
        """Start the codes by k-means over (n, D) vectors of `groups` (n,), of all ranks."""
        counts = kmeans(self.codebook, vectors, groups, self.seed)
        self.counts.copy_(counts.clamp_min(self.settings.restart_below))
        self.moved.fill_(True)
        if self.averages:
            self.sums.copy_(self.codebook.codes * self.counts.unsqueeze(-1))
        self._push()

    @torch.no_grad()
    def update(self, vectors: Tensor, codes: Tensor, groups: Tensor | None = None) -> int:
        """Follow a step of training, then restart dead codes.

        Adam's moments of a code fade while nothing chooses it, long before it counts as dead, so a
        restarted code needs no reset there.

        Args:
            vectors: (n, D) encoder outputs of this rank, before quantisation.
            codes: (n,) int64 that they chose.
            groups: (n,) int64, None for one group.

        Returns:
            How many codes were restarted.
        """
        vectors = self.codebook.normalize(vectors.detach())
        weight = 1 - self.settings.decay
        counts = count_hits(self.codebook, codes, groups)
        sums = [sum_vectors(self.codebook, vectors, codes, groups)] if self.averages else []
        sum_over_ranks(counts, *sums)
        self.counts.lerp_(counts, weight)
        if self.averages:
            self.sums.lerp_(sums[0], weight)
            move_to_means(self.codebook, self.counts, self.sums)
        self.num_updates += 1
        restarted = self._restart_dead(vectors, groups)
        self._push()
        return restarted

    def _push(self) -> None:
        """Let a flat codebook write its codes into the two halves that the model saves."""
        if isinstance(self.codebook, JoinedCodebook):
            self.codebook.push()

    def _restart_dead(self, vectors: Tensor, groups: Tensor | None) -> int:
        """Put codes whose counts have sunk onto vectors of their groups, with fresh statistics."""
        dead = self.counts < self.settings.restart_below
        if not bool(dead.any()):
            return 0
        seed = self.seed + 1 + int(self.num_updates)
        restarted = restart(self.codebook, dead, vectors, groups, seed)
        self.moved |= restarted
        self.counts[restarted] = 1.0
        if self.averages:  # old sums would overwrite the code
            self.sums[restarted] = self.codebook.codes[restarted]
        return int(restarted.sum())
