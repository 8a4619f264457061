import pytest

from eval.measures.intervals import wilson_interval


@pytest.mark.parametrize(
    ("num_correct", "num_total", "low", "high"),
    [
        # Newcombe (1998), table I, method 3: Wilson's score interval without correction.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_equals_the_published_examples(num_correct, num_total, low, high):
    assert wilson_interval(num_correct, num_total) == pytest.approx((low, high), abs=5e-5)


def test_a_perfect_score_still_has_a_width():
    low, high = wilson_interval(96, 96)
    assert 0.95 < low < 1 and high == pytest.approx(1)


def test_no_trials_are_refused():
    with pytest.raises(ValueError):
        wilson_interval(0, 0)
