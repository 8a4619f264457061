"""Set distances by several networks at once, of the whole sets and of named groups in them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from eval.measures.feature_networks import FeatureNetwork
from eval.measures.set_distance import (
    FeatureSums,
    SetFeatures,
    frechet_distance,
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
        self.networks = networks
        self.kinds = kinds
        keep = "kid" in kinds
        self._sets = [[SetFeatures(n.dim, keep), SetFeatures(n.dim, keep)] for n in networks]
        # Of groups the features themselves: their sums are as large as those of the whole sets.
        self._groups: dict[str, list[tuple[list[Tensor], list[Tensor]]]] = {}

    def add(self, images: Tensor | None, others: Tensor | None, group: str = "") -> None:
        """Take in a batch of either set, (B, 3, H, W) in [-1, 1], also into the group of a name."""
        if group and group not in self._groups:
            self._groups[group] = [([], []) for _ in self.networks]
        for i, (network, sets) in enumerate(zip(self.networks, self._sets, strict=True)):
            for side, batch in enumerate((images, others)):
                if batch is not None and len(batch):
                    features = network(batch)
                    sets[side].add(features)
                    if group:
                        self._groups[group][i][side].append(features)

    def scores(self, ranks: RankGroup | None = None) -> Scores:
        """Name of each distance → `value`, `interval` (None), `network`, numbers of images.

        KID says how its estimates were taken (`rule`), and has their deviation (`std`) where there
        are several.

        Args:
            ranks: who has seen the other images; None where this process has seen all.
        """
        found: Scores = {}
        for network, sets in zip(self.networks, self._sets, strict=True):
            ours, theirs = sets if ranks is None else [kept.gathered(ranks) for kept in sets]
            if "frechet" in self.kinds:
                found[network.frechet_name] = _frechet(network, ours.sums, theirs.sums)
            if "kid" in self.kinds:
                found[network.kid_name] = _kernel(network, ours.features, theirs.features)
        return found

    def group_scores(self) -> dict[str, Scores]:
        """The same of each group, by its name; KID where it is too small for a Fréchet distance.

        Raises:
            UserError: if a group has fewer than two images on either side.
        """
        found: dict[str, Scores] = {}
        for name, of_networks in sorted(self._groups.items()):
            scores = found[name] = {}
            for network, sides in zip(self.networks, of_networks, strict=True):
                ours, theirs = (torch.cat(side or [torch.zeros(0, network.dim)]) for side in sides)
                is_enough = min(len(ours), len(theirs)) > network.dim
                if "frechet" in self.kinds and is_enough:
                    sums = FeatureSums.of(ours), FeatureSums.of(theirs)
                    scores[network.frechet_name] = _frechet(network, *sums)
                if "kid" in self.kinds or not is_enough:
                    scores[network.kid_name] = _kernel(network, ours, theirs)
        return found


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
