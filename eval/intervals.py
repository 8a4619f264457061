"""The confidence interval that stands beside every accuracy."""


def wilson_interval(
    num_correct: int, num_total: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Wilson's score interval of a proportion.

    Unlike the normal approximation it stays inside [0, 1] and has a width at 0 % and 100 %, where
    good models end up. It assumes independent trials; several questions about one image are not
    quite that, so the true interval is somewhat wider.

    Args:
        num_correct: successes, in [0, num_total].
        num_total: trials, above 0.
        confidence: coverage, in (0, 1).

    Returns:
        Lower and upper bound, each in [0, 1].

    Raises:
        ValueError: if there are no trials, or more successes than trials.
    """
    from scipy.stats import binomtest

    interval = binomtest(num_correct, num_total).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)
