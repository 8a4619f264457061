"""How far apart two sets of images are: Fréchet and kernel distance of their features.

Both are worked out in float64 from what ranks can add up: the Fréchet distance from sums, the
kernel distance from the features themselves in the order of the images.

Shapes: N images, D features.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchmetrics.image.kid import poly_mmd

from runtime.errors import UserError

KID_SUBSET_SIZE = 1000
KID_NUM_SUBSETS = 100


@dataclass
class FeatureSums:
    """Sufficient statistics of a set's mean and covariance, in float64.

    Attributes:
        count: N.
        total: (D,) the sum of the features.
        outer: (D, D) the sum of their outer products.
    """

    count: int
    total: Tensor
    outer: Tensor

    @classmethod
    def of(cls, features: Tensor) -> "FeatureSums":
        """The statistics of (N, D) features."""
        exact = features.double()
        return cls(len(exact), exact.sum(0), exact.T @ exact)

    def __add__(self, other: "FeatureSums") -> "FeatureSums":
        total, outer = self.total + other.total, self.outer + other.outer
        return FeatureSums(self.count + other.count, total, outer)

    @property
    def mean(self) -> Tensor:
        """(D,)."""
        return self.total / self.count

    @property
    def covariance(self) -> Tensor:
        """(D, D), the unbiased one."""
        spread = self.outer - self.count * torch.outer(self.mean, self.mean)
        return spread / (self.count - 1)


def frechet_distance(ours: FeatureSums, theirs: FeatureSums) -> float:
    """Fréchet distance of the two Gaussians with the sets' means and covariances.

    |m₁ − m₂|² + tr(C₁ + C₂ − 2 (C₁C₂)^½) (arXiv 1706.08500, eq. 6). The trace of the root is the
    sum of the roots of the eigenvalues of C₁^½ C₂ C₁^½, which is symmetric, so that no complex
    number and no iterative root of a matrix comes in.
    """
    values, vectors = torch.linalg.eigh(ours.covariance)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    product = root @ theirs.covariance @ root
    cross = torch.linalg.eigvalsh((product + product.T) / 2).clamp_min(0).sqrt().sum()
    traces = ours.covariance.trace() + theirs.covariance.trace()
    distance = (ours.mean - theirs.mean).square().sum() + traces - 2 * cross
    return float(distance.clamp_min(0))  # rounding can end below zero where the sets are equal


def kernel_distance(
    ours: Tensor,
    theirs: Tensor,
    subset_size: int = KID_SUBSET_SIZE,
    num_subsets: int = KID_NUM_SUBSETS,
    seed: int = 0,
) -> tuple[float, float | None]:
    """KID: the squared maximum mean discrepancy with the kernel (x·y/D + 1)³ (arXiv 1801.01401).

    Args:
        ours: (N, D) features.
        theirs: (N', D) features.
        subset_size: images of each set in one estimate; at most N and N'.
        num_subsets: estimates; a single one where the subsets are the sets, all images at once.
        seed: of the subsets.

    Returns:
        Mean and standard deviation of the unbiased estimates; the mean may be below zero. One
        estimate has no deviation: None.

    Raises:
        UserError: if a set has fewer than two images.
    """
    if min(len(ours), len(theirs)) < 2:
        raise UserError("A kernel distance needs at least 2 images on either side.")
    size = min(subset_size, len(ours), len(theirs))
    generator = np.random.default_rng(seed)
    if len(ours) == len(theirs) == size:  # each subset would be the whole of both sets
        num_subsets = 1
    estimates = []
    for _ in range(num_subsets):
        first, second = (
            features[torch.from_numpy(generator.permutation(len(features))[:size])].double()
            for features in (ours, theirs)
        )
        estimates.append(float(poly_mmd(first, second)))
    deviation = float(np.std(estimates)) if num_subsets > 1 else None
    return float(np.mean(estimates)), deviation


def kernel_rule(num_ours: int, num_theirs: int) -> str:
    """How `kernel_distance` takes sets of that many images, for the record beside the score.

    Up to the semicolon it says what its spread is over, or that it has none.
    """
    if num_ours == num_theirs <= KID_SUBSET_SIZE:
        return "all images at once; cubic kernel, unbiased"
    size = min(KID_SUBSET_SIZE, num_ours, num_theirs)
    return f"{KID_NUM_SUBSETS} subsets of {size:,}; cubic kernel, unbiased, seed 0"


def in_order(parts: Sequence[Tensor]) -> Tensor:
    """The features, (N_r, D) of each rank r, of ranks that took every W-th image, in order."""
    whole = torch.empty(sum(map(len, parts)), parts[0].shape[1])
    for rank, part in enumerate(parts):
        whole[rank :: len(parts)] = part
    return whole
