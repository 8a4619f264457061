"""Set distances by several networks at once, of the whole sets and of named groups in them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from eval.measures.feature_networks import FeatureNetwork
from eval.measures.set_distance import (
    FeatureSums,
    frechet_distance,
    in_order,
    kernel_distance,
    kernel_rule,
)
from runtime.errors import UserError
from runtime.rank_group import RankGroup

Scores = dict[str, dict[str, Any]]
"""Name of each distance → what is known of it."""


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
