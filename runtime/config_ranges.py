"""Numbers of a config that must lie in a range, so that a slip is one sentence and not a defect."""

import math
from typing import Any


def check_ranges(
    config: Any,
    section: str = "",
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    at_most: float = math.inf,
    below: float = math.inf,
    names: tuple[str, ...],
) -> None:
    """Refuse fields out of range; of a tuple each entry is looked at, and None is passed over.

    Args:
        config: a dataclass instance, from its own `__post_init__`.
        section: what stands before the names in an error, such as "training.".
        above, at_least, at_most, below: the range, which never holds infinity or NaN.
        names: of the fields.

    Raises:
        ValueError: naming the field, its range and its value.
    """
    bounds = (
        ("above", above, lambda number: number > above),
        ("at least", at_least, lambda number: number >= at_least),
        ("at most", at_most, lambda number: number <= at_most),
        ("below", below, lambda number: number < below),
    )
    spoken = " and ".join(f"{word} {bound:g}" for word, bound, _ in bounds if math.isfinite(bound))
    for name in names:
        value = getattr(config, name)
        for number in value if isinstance(value, tuple) else (value,):
            if number is None:
                continue
            if not (math.isfinite(number) and all(fits(number) for _, _, fits in bounds)):
                raise ValueError(f"{section}{name} must be {spoken or 'a number'}, not {value}.")
