"""Which records make up step t: a pure function of (seed, t), so resuming needs no state.

The records' order is one seeded permutation an epoch, laid end to end; step t takes the next
`batch_size` of them. With 5 records and batches of 2, two epochs might read

    epoch 0: 3 1 4 0 2    epoch 1: 0 2 3 4 1
    steps:   [3 1] [4 0] [2 | 0] [2 3] [4 1]

so a batch may straddle two epochs and nothing is dropped. Rank r of a world of W takes the r-th
contiguous slice of each batch: the global batch doesn't depend on the number of ranks.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np


@dataclass
class StepBatches:
    """A `batch_sampler` for `torch.utils.data.DataLoader` that can start at any step.

    Raises:
        ValueError: if a number is out of range or `world_size` does not divide `batch_size`.
    """

    num_records: int
    """Records in the data set."""
    batch_size: int
    """The global batch size, over all ranks."""
    seed: int
    """Fixes the order of every epoch."""
    rank: int = 0
    """This process, in [0, world_size)."""
    world_size: int = 1
    """Number of processes; divides `batch_size`."""
    start_step: int = 0
    """The first step that iteration yields."""
    num_steps: int = 0
    """The step before which iteration ends, counted from step 0."""
    _orders: dict[int, np.ndarray] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.num_records < 1 or self.batch_size < 1:
            raise ValueError(f"no batches of {self.batch_size} from {self.num_records} records")
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank {self.rank} is not in a world of {self.world_size}")
        if self.batch_size % self.world_size:
            ranks = f"{self.world_size} ranks"
            raise ValueError(f"a global batch of {self.batch_size} does not divide over {ranks}")
        if not 0 <= self.start_step <= self.num_steps:
            raise ValueError(f"cannot go from step {self.start_step} to step {self.num_steps}")

    def indices(self, step: int) -> list[int]:
        """Return this rank's record indices at a step, each in [0, num_records)."""
        per_rank = self.batch_size // self.world_size
        first = step * self.batch_size + self.rank * per_rank
        return [self._record_at(position) for position in range(first, first + per_rank)]

    def __iter__(self) -> Iterator[list[int]]:
        return map(self.indices, range(self.start_step, self.num_steps))

    def __len__(self) -> int:
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
