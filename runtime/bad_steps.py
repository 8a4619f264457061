"""Steps in a row that teach nothing: not finite, named by their records, or without a gradient."""

import sys
from collections.abc import Callable
from pathlib import Path

from runtime.errors import UserError
from runtime.files import write_json
from runtime.ranks import is_main_rank

MOST = 10
"""A run stops at so many in a row."""


class BadSteps:
    """The bad steps in a row of one run, none of which has moved anything.

    Args:
        out: folder of the run.
        record_ids: ids of the records in the batch of a step, counted from 1.

    Attributes:
        steps: their numbers, counted from 1.
    """

    def __init__(self, out: Path, record_ids: Callable[[int], list[str]]):
        self.out, self.record_ids = out, record_ids
        self.steps: list[int] = []

    def add(self, step: int) -> None:
        """Count a step, and say so on stderr."""
        self.steps.append(step)
        if is_main_rank():
            why = f"a loss or gradient is not finite ({len(self.steps)} in a row)"
            print(f"step {step} skipped: {why}", file=sys.stderr, flush=True)

    @property
    def are_too_many(self) -> bool:
        return len(self.steps) >= MOST

    def write(self) -> Path:
        """Write the records of their batches into `nonfinite_batches.json`, which it returns."""
        path = self.out / "nonfinite_batches.json"
        if is_main_rank():
            rows = [{"step": step, "record_ids": self.record_ids(step)} for step in self.steps]
            write_json(path, rows)
        return path


class IdleSteps:
    """Counts steps in a row whose gradient is 0 everywhere; `num_steps` are those of the run."""

    def __init__(self, num_steps: int):
        self.number, self.most = 0, min(MOST, num_steps)

    def add(self, gradient_norm: float) -> None:
        """Count a step.

        Raises:
            UserError: if there are too many in a row.
        """
        self.number = self.number + 1 if gradient_norm == 0 else 0
        if self.number >= self.most:
            raise UserError(
                f"the gradient of {self.number} steps in a row is 0 everywhere, so nothing is "
                f"learned, and no model is saved: nothing in the data has a label or loss that "
                f"counts; raise a weight of the loss, or train on other data"
            )
