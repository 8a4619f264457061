"""The confidence interval that stands beside every accuracy."""


def wilson_interval(
    num_correct: float, num_total: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Wilson's score interval of a proportion.

    Unlike the normal approximation it stays inside [0, 1] and has a width at 0 % and 100 %, where
    good models end up. It assumes independent trials; several questions about one image are not
    quite that, so the true interval is somewhat wider.

    Args:
        num_correct: successes, in [0, num_total]; of soft scores their sum; the interval is
            then wider than need be, since they vary less than right and wrong.
        num_total: trials, above 0.
        confidence: coverage, in (0, 1).

    Returns:
        Lower and upper bound, each in [0, 1].

    Raises:
        ValueError: if there are no trials, or more successes than trials.
    """
    from scipy.stats import norm

    if not 0 <= num_correct <= num_total or num_total < 1:
        raise ValueError(f"{num_correct} successes in {num_total} trials.")
    z = float(norm.ppf((1 + confidence) / 2))
    share = num_correct / num_total
    middle = share + z * z / (2 * num_total)
    reach = z * (share * (1 - share) / num_total + (z / (2 * num_total)) ** 2) ** 0.5
    scale = 1 + z * z / num_total
    return max(0.0, (middle - reach) / scale), min(1.0, (middle + reach) / scale)
