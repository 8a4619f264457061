"""The learning rate as a function of the step alone, so that a checkpoint need not hold it."""

import math

from tokenizer.training.settings import TrainingConfig


def learning_rate(config: TrainingConfig, step: int, peak: float | None = None) -> float:
    """A linear warm-up, then a cosine down to `final_learning_rate` of the peak, or the peak.

    Args:
        config: holds the schedule.
        step: counted from 0.
        peak: the config's own by default; a discriminator has another on the same schedule.
    """
    peak = config.learning_rate if peak is None else peak
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    if config.schedule == "constant":
        return peak * warmup
    cosine = 0.5 * (1 + math.cos(math.pi * step / config.num_steps))
    floor = config.final_learning_rate
    return peak * warmup * (floor + (1 - floor) * cosine)
