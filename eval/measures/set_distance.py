"""How far apart two sets of images are: Fréchet and kernel distance of their features.

Both are worked out in float64 from what ranks can add up: the Fréchet distance from sums, the
kernel distance from the features themselves in the order of the images.

Shapes: N images, D features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics.image.kid import poly_mmd

from eval.measures.feature_networks import FeatureNetwork
from runtime.errors import UserError
from runtime.rank_group import RankGroup

KID_SUBSET_SIZE = 1000
KID_NUM_SUBSETS = 100
Scores = dict[str, dict[str, Any]]
"""Name of each distance → what is known of it."""


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
        Mean of the unbiased estimates, which may be below zero, and their standard deviation; None
        of a single one.

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


class SetDistances:
    """Distance of two sets of images by several networks, gathered as the images go by.

    Args:
        networks: the feature networks.
        kinds: of "frechet" and "kid".
    """

    def __init__(self, networks: Sequence[FeatureNetwork], kinds: Sequence[str]):
        self.networks, self.kinds = networks, kinds
        # Of each network and side: sums, which are all that a Fréchet distance needs, and the
        # features themselves, for a kernel distance or groups; of each side the groups of these.
        none = [FeatureSums.of(torch.zeros(0, network.dim)) for network in networks]
        self._sums = [[each, each] for each in none]
        self._features: list[list[list[Tensor]]] = [[[], []] for _ in networks]
        self._groups: list[list[str]] = [[], []]

    def require(self, sets: Mapping[str, int]) -> None:
        """Refuse sets too small for their distances, before the work begins.

        Args:
            sets: name of each → how many images it has.

        Raises:
            UserError: if one has fewer than two images for a kernel distance, or no more than the
                network has dimensions for the covariance of a Fréchet distance.
        """
        if self.networks and "kid" in self.kinds and min(sets.values()) < 2:
            raise UserError(
                f"A kernel distance needs at least 2 images on either side, but there are "
                f"{' and '.join(map(str, sets.values()))}."
            )
        for network in self.networks if "frechet" in self.kinds else ():
            for what, count in sets.items():
                if count <= (dim := network.dim):
                    raise UserError(
                        f"{what} has {count:,} images, and the {dim:,} dimensions of "
                        f"{network.label} need more images than that for a Fréchet distance: give "
                        f"at least {dim + 1:,}, or take the kernel distance, --distance kid, "
                        "which is unbiased on small sets."
                    )

    def add(self, images: Tensor | None, others: Tensor | None, group: str = "") -> None:
        """Take in a batch of either set, (B, 3, H, W) in [-1, 1], also into the group of a name."""
        for side, batch in enumerate((images, others)):
            if batch is None or not len(batch):
                continue
            is_kept = bool(group) or "kid" in self.kinds
            self._groups[side] += [group] * len(batch) * is_kept
            for i, network in enumerate(self.networks):
                features = network(batch)
                self._sums[i][side] += FeatureSums.of(features)
                if is_kept:
                    self._features[i][side].append(features.float())

    def scores(self, ranks: RankGroup | None = None) -> Scores:
        """Name of each distance → `value`, `interval` (None), `network`, numbers of images.

        KID names how its estimates were taken (`rule`), and has their deviation (`std`) where there
        are several.

        Args:
            ranks: who has seen the other images; None where this process has seen all. Rank r of W
                has seen the images r, r + W, r + 2W, ….
        """
        found: Scores = {}
        for i, network in enumerate(self.networks):
            sums, features = list(self._sums[i]), [self._kept(i, side) for side in range(2)]
            for side in range(2):
                if ranks is not None:
                    parts = ranks.gather((sums[side], features[side]))
                    sums[side] = sum((part for part, _ in parts[1:]), parts[0][0])
                    features[side] = in_order([part for _, part in parts])
            if "frechet" in self.kinds:
                found[network.frechet_name] = _frechet(network, *sums)
            if "kid" in self.kinds:
                found[network.kid_name] = _kernel(network, *features)
        return found

    def group_scores(self) -> dict[str, Scores]:
        """The same of each group, by its name; KID where it is too small for a Fréchet distance.

        Raises:
            UserError: if a group has fewer than two images on either side.
        """
        found: dict[str, Scores] = {}
        for name in sorted({*self._groups[0], *self._groups[1]} - {""}):
            scores = found[name] = {}
            of_group = [torch.tensor([its == name for its in groups]) for groups in self._groups]
            for i, network in enumerate(self.networks):
                ours, theirs = (self._kept(i, side)[of_group[side]] for side in range(2))
                is_enough = min(len(ours), len(theirs)) > network.dim
                if "frechet" in self.kinds and is_enough:
                    sums = FeatureSums.of(ours), FeatureSums.of(theirs)
                    scores[network.frechet_name] = _frechet(network, *sums)
                if "kid" in self.kinds or not is_enough:
                    scores[network.kid_name] = _kernel(network, ours, theirs)
        return found

    def _kept(self, network: int, side: int) -> Tensor:
        """(N, D) features of one side."""
        empty = torch.zeros(0, self.networks[network].dim)
        return torch.cat([empty, *self._features[network][side]])


def _frechet(network: FeatureNetwork, ours: FeatureSums, theirs: FeatureSums) -> dict[str, Any]:
    value = frechet_distance(ours, theirs)
    return {"value": value, **_about(network, ours.count, theirs.count)}


def _kernel(network: FeatureNetwork, ours: Tensor, theirs: Tensor) -> dict[str, Any]:
    value, deviation = kernel_distance(ours, theirs)
    about = {"rule": kernel_rule(len(ours), len(theirs))} | _about(network, len(ours), len(theirs))
    return {"value": value, "std": deviation, **about}


def _about(network: FeatureNetwork, num_ours: int, num_theirs: int) -> dict[str, Any]:
    return {
        "interval": None,
        "network": network.label,
        "network_fingerprint": network.fingerprint,
        "num_images": [num_ours, num_theirs],
    }
