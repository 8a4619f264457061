"""The learning rate as a function of the step, and settings that cannot be."""

from itertools import pairwise

import pytest

from tokenizer.training.settings import TrainingSettings


def settings(**fields):
    return TrainingSettings(
        num_steps=100, global_batch_size=8, warmup_steps=10, learning_rate=1.0, **fields
    )


def test_it_warms_up_and_sinks_to_its_floor():
    rates = [settings().learning_rate_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1, rel=0.01)
    assert rates.index(max(rates)) == 9
    assert rates[-1] == pytest.approx(settings().final_learning_rate, abs=1e-3)
    assert all(late < early for early, late in pairwise(rates[9:]))


def test_a_constant_schedule_warms_up_and_stays():
    rates = [settings(schedule="constant").learning_rate_at(step) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert set(rates[9:]) == {1.0}


def test_another_peak_has_the_same_schedule():
    for step in (0, 5, 50, 99):
        ours, other = (settings().learning_rate_at(step, peak) for peak in (None, 0.25))
        assert other == pytest.approx(ours / 4)
