"""Intervals beside scores: Wilson's of a proportion, the normal approximation of a mean."""

from collections.abc import Sequence
from typing import Any

import numpy as np

Z = 1.959963984540054
"""Standard deviations of a normal distribution on either side of its mean that hold 95 % of it."""


def wilson_interval(num_correct: float, num_total: int) -> tuple[float, float]:
    """Wilson's score interval of a proportion, at 95 %: lower and upper bound in [0, 1].

    Unlike the normal approximation it stays inside [0, 1] and has a width at 0 % and 100 %, where
    good models end up. It assumes independent trials; several questions about one image are not
    quite that, so the true interval is somewhat wider. Soft scores give their sum; the interval is
    then wider than need be, since they vary less than right and wrong.

    Raises:
        ValueError: if there are no trials, or more successes than trials.
    """
    if not 0 <= num_correct <= num_total or num_total < 1:
        raise ValueError(f"{num_correct} successes in {num_total} trials.")
    fraction = num_correct / num_total
    middle = fraction + Z * Z / (2 * num_total)
    reach = Z * (fraction * (1 - fraction) / num_total + (Z / (2 * num_total)) ** 2) ** 0.5
    scale = 1 + Z * Z / num_total
    return max(0.0, (middle - reach) / scale), min(1.0, (middle + reach) / scale)


def fraction_with_interval(right: Sequence[bool]) -> dict[str, Any]:
    """Fraction of what is right, as `value`, with its Wilson 95 % `interval`."""
    interval = list(wilson_interval(sum(right), len(right)))
    return {"value": sum(right) / len(right), "interval": interval}


def mean_with_interval(values: Sequence[float]) -> dict[str, Any]:
    """Mean, as `value`, with its 95 % `interval` by the normal approximation; None of one value."""
    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return {"value": mean, "interval": None}
    half = 1.96 * float(np.std(values, ddof=1)) / count**0.5
    return {"value": mean, "interval": [mean - half, mean + half]}
