"""Which records make up step t: a pure function of (seed, t), so resuming needs no state.

The records' order is one seeded permutation an epoch, laid end to end; step t takes the next
`batch_size` of them. With 5 records and batches of 2, two epochs might read

    epoch 0: 3 1 4 0 2    epoch 1: 0 2 3 4 1
    steps:   [3 1] [4 0] [2 | 0] [2 3] [4 1]

so a batch may straddle two epochs and nothing is dropped. Rank r of a world of W takes the r-th
contiguous slice of each batch: the global batch doesn't depend on the number of ranks.
"""

import itertools
from collections.abc import Iterator

import numpy as np


class StepBatches:
    """A `batch_sampler` for `torch.utils.data.DataLoader` that can start at any step.

    Args:
        num_records: records in the data set.
        batch_size: the global batch size, over all ranks.
        seed: fixes the order of every epoch.
        rank: this process, in [0, world_size).
        world_size: number of processes; divides `batch_size`.
        start_step: the first step that iteration yields.
        num_steps: the step before which iteration ends, counted from step 0; None for no end.

    Raises:
        ValueError: if a number is out of range or `world_size` does not divide `batch_size`.
    """

    def __init__(
        self,
        num_records: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        start_step: int = 0,
        num_steps: int | None = None,
    ) -> None:
        if num_records < 1 or batch_size < 1:
            raise ValueError(
                f"batches need at least one record and a batch size of at least 1, "
                f"not {num_records} records and a batch size of {batch_size}"
            )
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not in a world of {world_size}")
        if batch_size % world_size:
            raise ValueError(
                f"a global batch of {batch_size} does not divide over {world_size} ranks"
            )
        if start_step < 0 or (num_steps is not None and num_steps < start_step):
            raise ValueError(f"cannot go from step {start_step} to step {num_steps}")
        self.num_records = num_records
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.start_step = start_step
        self.num_steps = num_steps
        self._orders: dict[int, np.ndarray] = {}

    def indices(self, step: int) -> list[int]:
        """Return this rank's record indices at a step, each in [0, num_records)."""
        per_rank = self.batch_size // self.world_size
        first = step * self.batch_size + self.rank * per_rank
        positions = range(first, first + per_rank)
        return [self._record_at(position) for position in positions]

    def __iter__(self) -> Iterator[list[int]]:
        if self.num_steps is None:
            steps: Iterator[int] = itertools.count(self.start_step)
        else:
            steps = iter(range(self.start_step, self.num_steps))
        return map(self.indices, steps)

    def __len__(self) -> int:
        if self.num_steps is None:
            raise TypeError("StepBatches without num_steps has no length")
        return self.num_steps - self.start_step

    def _record_at(self, position: int) -> int:
        """Return the record at a position in the endless sequence of epochs."""
        epoch, offset = divmod(position, self.num_records)
        if epoch not in self._orders:
            # Two epochs are enough for a batch that straddles them; older ones only take memory.
            self._orders = {e: order for e, order in self._orders.items() if e == epoch - 1}
            rng = np.random.default_rng([self.seed, epoch])
            self._orders[epoch] = rng.permutation(self.num_records)
        return int(self._orders[epoch][offset])
