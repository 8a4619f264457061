"""Set distances by several networks at once, of the whole sets and of named groups in them."""

from collections.abc import Sequence
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


def require_pairs(kinds: Sequence[str], *counts: int) -> None:
    """Refuse sets too small for a kernel distance, before the work begins.

    Raises:
        UserError: if any has fewer than two images.
    """
    if "kid" in kinds and min(counts) < 2:
        raise UserError(
            f"A kernel distance needs at least 2 images on either side, but there are "
            f"{' and '.join(map(str, counts))}."
        )


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
        self._sums = [[FeatureSums.zero(network.dim) for _ in range(2)] for network in networks]
        self._features: list[list[list[Tensor]]] = [[[], []] for _ in networks]
        self._groups: list[list[str]] = [[], []]

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
                    sums[side] = sum((part for part, _ in parts), FeatureSums.zero(network.dim))
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
