"""Linear probe: how much of a label a linear classifier reads off frozen features.

Shapes: n images, D feature width, C classes.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

L2 = 1e-3  # on the weights, beside the mean loss; small, since n is much above D


class LinearProbe(NamedTuple):
    """A fitted classifier of standardised features.

    Attributes:
        mean, scale: (D,) of the features that it was fitted on.
        weight: (D, C).
        bias: (C,).
    """

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor

    def predict(self, features: Tensor) -> Tensor:
        """(n,) int64 classes of (n, D) features."""
        standardised = (features.double() - self.mean) / self.scale
        return (standardised @ self.weight + self.bias).argmax(-1)


def fit_probe(features: Tensor, labels: Tensor, num_classes: int, l2: float = L2) -> LinearProbe:
    """Multinomial logistic regression, to its one minimum, by L-BFGS from zeros.

    Nothing in it is random, and the loss is convex: equal input gives an equal classifier.

    Args:
        features: (n, D).
        labels: (n,) int64 in [0, C).
        num_classes: C.
        l2: weight of half the squared norm of the weights.
    """
    features = features.detach().double()
    mean, scale = features.mean(0), features.std(0, correction=0)
    scale = torch.where(scale > 1e-8, scale, 1.0)  # a constant feature stays at zero
    standardised = (features - mean) / scale
    weight = torch.zeros(features.shape[1], num_classes, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(num_classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=1000,
        tolerance_grad=1e-7,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(standardised @ weight + bias, labels)
        value = value + l2 / 2 * weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return LinearProbe(mean, scale, weight.detach(), bias.detach())


def caption_label(captions: Sequence[str], words: Sequence[str]) -> int | None:
    """The class of an image: the index of the one of `words` that its captions name, else None."""
    text = " ".join(captions)
    patterns = [rf"\b{re.escape(word)}\b" for word in words]
    named = [i for i, each in enumerate(patterns) if re.search(each, text, flags=re.IGNORECASE)]
    return named[0] if len(named) == 1 else None
