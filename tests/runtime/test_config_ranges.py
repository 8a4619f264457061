import math
from dataclasses import dataclass

import pytest

from runtime.config_ranges import check_ranges


@dataclass
class Settings:
    share: float | None = 0.5
    betas: tuple[float, float] = (0.9, 0.95)


@pytest.mark.parametrize(
    ("bounds", "inside", "outside"),
    [
        ({"at_least": 0, "at_most": 1}, (0, 0.5, 1, None), (-1e-9, 1 + 1e-9)),
        ({"above": 0, "below": 1}, (1e-9, 0.5, None), (0, 1)),
        ({"at_least": 1}, (1, 10**12), (0, 0.99)),
        ({}, (-5, 0, 5), ()),
    ],
)
def test_a_number_is_refused_just_outside_of_its_range(bounds, inside, outside):
    for value in inside:
        check_ranges(Settings(value), names=("share",), **bounds)
    for value in (*outside, math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match=r"^here\.share must be .*, not "):
            check_ranges(Settings(value), "here.", names=("share",), **bounds)


def test_every_entry_of_a_tuple_is_looked_at():
    check_ranges(Settings(), at_least=0, below=1, names=("betas",))
    sentence = r"betas must be at least 0 and below 1, not \(0.9, 1.0\)\."
    with pytest.raises(ValueError, match=sentence):
        check_ranges(Settings(betas=(0.9, 1.0)), at_least=0, below=1, names=("betas",))
