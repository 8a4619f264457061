"""Steps whose gradients are not finite: they move nothing, and too many in a row end the run."""

import sys
from pathlib import Path
from typing import Any

from mllm.data.sequences import TrainingSequences
from runtime.errors import UserError
from runtime.files import write_json
from runtime.ranks import is_main_rank

MOST_BAD_STEPS = 10
BAD_BATCHES = "nonfinite_batches.json"


class BadSteps:
    """The bad steps in a row.

    Args:
        sequences: of the run, which know the records of every step.
        batch_size: sequences of a step.
        out: folder of the run.

    Attributes:
        steps: the last steps in a row that were bad, counted from 1.
    """

    def __init__(self, sequences: TrainingSequences, batch_size: int, out: Path):
        self.sequences = sequences
        self.batch_size = batch_size
        self.out = out
        self.steps: list[int] = []

    def add(self, step: int) -> None:
        """Note a bad step.

        Raises:
            UserError: if it is the last that is allowed; a file names the records of all of them.
        """
        self.steps.append(step)
        count = len(self.steps)
        if is_main_rank():
            print(
                f"step {step} skipped: a loss or gradient is not finite ({count} in a row)",
                file=sys.stderr,
                flush=True,
            )
        if count == MOST_BAD_STEPS:
            self.stop()

    def stop(self) -> None:
        """End the run.

        Raises:
            UserError: always.
        """
        path = self.out / BAD_BATCHES
        if is_main_rank():
            write_json(path, [self._describe(step) for step in self.steps])
        raise UserError(
            f"the loss or gradient of the steps {self.steps[0]} to {self.steps[-1]} is not finite, "
            f"and no model is saved; the records of their batches are in {path}: look at those, or "
            f"lower learning_rate, and add overwrite=true"
        )

    def _describe(self, step: int) -> dict[str, Any]:
        first = (step - 1) * self.batch_size
        numbers = range(first, first + self.batch_size)
        return {"step": step, "record_ids": self.sequences.record_ids(numbers)}
