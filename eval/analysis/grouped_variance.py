"""Variance within groups against overall variance, unbiased, from sums that add up over batches.

Shapes: n vectors, G groups, D width.
"""

import torch
from torch import Tensor


class GroupedVariance:
    """Collects what the variance within each of `num_groups` groups needs.

    Both variances divide by their degrees of freedom: overall by n − 1, within by n less the
    groups that occur. So a group of one vector adds nothing to either side of the quotient, and
    groups drawn at random have a ratio of 1 on average however many they are, where the plain
    means of squares would show a gain that is none.

    Args:
        num_groups: G.
        width: D.
    """

    def __init__(self, num_groups: int, width: int):
        self.counts = torch.zeros(num_groups, dtype=torch.int64)
        self.sums = torch.zeros(num_groups, width, dtype=torch.float64)
        self.squares = 0.0

    def add(self, vectors: Tensor, groups: Tensor) -> None:
        """Count (n, D) vectors and their (n,) int64 groups in [0, G)."""
        vectors = vectors.double()
        self.counts += torch.bincount(groups, minlength=len(self.counts))
        self.sums.index_add_(0, groups, vectors)
        self.squares += float(vectors.square().sum())

    @property
    def num_vectors(self) -> int:
        return int(self.counts.sum())

    @property
    def num_used(self) -> int:
        """Groups that occur."""
        return int((self.counts > 0).sum())

    @property
    def overall(self) -> float:
        """Variance of a vector's values, averaged over the D of them; NaN for fewer than two."""
        about_mean = self.squares - float(self.sums.sum(0).square().sum()) / self.num_vectors
        return self._per_value(about_mean, self.num_vectors - 1)

    @property
    def within(self) -> float:
        """The same about the mean of each vector's own group; NaN where no group has two."""
        used = self.counts > 0
        explained = (self.sums[used].square().sum(1) / self.counts[used]).sum()
        return self._per_value(self.squares - float(explained), self.num_vectors - self.num_used)

    @property
    def ratio(self) -> float:
        """`within` / `overall`: 0 where the group tells all, 1 where it tells nothing."""
        return self.within / self.overall if self.overall > 0 else float("nan")

    def _per_value(self, squares: float, freedom: int) -> float:
        if freedom < 1:
            return float("nan")
        return max(0.0, squares) / freedom / self.sums.shape[1]
