"""Which record comes when, out of several sources by weight: integers alone, no data.

The next record comes from the source that has had the least of its due, amount / weight; so shares
are right at every moment and not only in the long run. With weights 2 and 1:

    draws   a b a a b a a b a ...        records of a: 2/3, of b: 1/3

Each source is read in an order of its own, a new one each epoch. All that has to be kept to go on
is how much each source has given, and it doesn't depend on ranks or workers.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from runtime.errors import UserError

BLOCKS_IN_BUFFER = 16
"""Pieces of neighbouring records that fill a shuffle buffer."""


@dataclass(frozen=True)
class MixtureSource:
    """One source of a mixture."""

    name: str
    """Unique in the mixture."""
    num_records: int
    """Records it has."""
    weight: float = 1.0
    """Its share is this over the sum of all weights."""
    epochs: int | None = None
    """Times that each of its records is read, after which the others share its part; None for
    ever."""
    lengths: Sequence[int] | None = None
    """Tokens of each record, needed where shares are of tokens."""


@dataclass(frozen=True)
class Draw:
    """One record of the stream."""

    source: int
    """Index of the source."""
    epoch: int
    """Of that source, from 0."""
    index: int
    """Of the record in the source."""


class Mixture:
    """The endless, or finite, row of draws; iterating goes on from the state.

    Args:
        sources: what is mixed.
        seed: fixes the order of every epoch of every source.
        by: what the weights are shares of.
        buffer: None shuffles all of a source; a number shuffles no wider than so many records, and
            reads neighbours together, for data on a slow disk.

    Raises:
        UserError: for two sources of one name, a weight of zero or less, an empty source, or
            lengths that are missing.
    """

    def __init__(
        self,
        sources: Sequence[MixtureSource],
        seed: int = 0,
        by: Literal["records", "tokens"] = "records",
        buffer: int | None = None,
    ) -> None:
        _refuse_sources(sources, by)
        if buffer is not None and buffer < 1:
            raise UserError(f"a shuffle buffer holds at least 1 record, not {buffer}")
        self.sources = list(sources)
        self.seed = seed
        self.by = by
        self.buffer = buffer
        self._drawn = [0] * len(sources)  # records
        self._amounts = [0] * len(sources)  # records or tokens
        self._orders: dict[int, tuple[int, np.ndarray]] = {}  # source -> its epoch, the order

    def __iter__(self) -> Iterator[Draw]:
        return self

    def __next__(self) -> Draw:
        dues = [
            (amount / source.weight, number)
            for number, (amount, source) in enumerate(zip(self._amounts, self.sources, strict=True))
            if source.epochs is None or self._drawn[number] < source.epochs * source.num_records
        ]
        if not dues:
            raise StopIteration
        number = min(dues)[1]
        source = self.sources[number]
        epoch, position = divmod(self._drawn[number], source.num_records)
        index = int(self._order(number, epoch)[position])
        self._drawn[number] += 1
        self._amounts[number] += 1 if source.lengths is None else int(source.lengths[index])
        if self.by == "records":
            self._amounts[number] = self._drawn[number]
        return Draw(number, epoch, index)

    def state_dict(self) -> dict[str, Any]:
        """What a mixture of the same sources needs to go on from here; plain JSON."""
        return {
            "seed": self.seed,
            "by": self.by,
            "buffer": self.buffer,
            "sources": {
                source.name: {
                    "records": source.num_records,
                    "weight": source.weight,
                    "drawn": self._drawn[number],
                    "amount": self._amounts[number],
                }
                for number, source in enumerate(self.sources)
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state.

        Raises:
            UserError: if the state is of other sources, weights, seed or shares.
        """
        for key in ("seed", "by", "buffer"):
            if state[key] != getattr(self, key):
                raise UserError(
                    f"the stream's state is of {key} {state[key]}, not {getattr(self, key)}: "
                    f"set {key} as it was, or begin anew"
                )
        mine = {source.name: (source.num_records, source.weight) for source in self.sources}
        theirs = {
            name: (found["records"], found["weight"]) for name, found in state["sources"].items()
        }
        if mine != theirs:
            raise UserError(
                f"the stream's state is of the sources {_told(theirs)}, not {_told(mine)}: "
                "give the same data and weights, or begin anew"
            )
        for number, source in enumerate(self.sources):
            self._drawn[number] = state["sources"][source.name]["drawn"]
            self._amounts[number] = state["sources"][source.name]["amount"]

    def shares(self) -> dict[str, float]:
        """What part of all that was drawn each source has given so far."""
        total = sum(self._amounts)
        return {
            source.name: amount / total if total else 0.0
            for source, amount in zip(self.sources, self._amounts, strict=True)
        }

    def _order(self, number: int, epoch: int) -> np.ndarray:
        """The order of a source's records in an epoch."""
        if self._orders.get(number, (-1,))[0] != epoch:
            source = self.sources[number]
            # By name, so that a source keeps its order when another joins.
            rng = np.random.default_rng([self.seed, zlib.crc32(source.name.encode()), epoch])
            self._orders[number] = (epoch, shuffled(source.num_records, rng, self.buffer))
        return self._orders[number][1]


def shuffled(count: int, rng: np.random.Generator, buffer: int | None = None) -> np.ndarray:
    """A random order of `count` records.

    Args:
        count: records.
        rng: decides.
        buffer: None for any order; else blocks of neighbours come in random order, and are mixed
            within windows of so many records.

    Returns:
        (count,) integers, each of [0, count) once.
    """
    if buffer is None or buffer >= count:
        return rng.permutation(count).astype(np.int32 if count < 2**31 else np.int64)
    block = max(1, buffer // BLOCKS_IN_BUFFER)
    starts = rng.permutation(-(-count // block)) * block
    order = np.concatenate([np.arange(start, min(start + block, count)) for start in starts])
    for window in range(0, count, buffer):
        rng.shuffle(order[window : window + buffer])
    return order


def _refuse_sources(sources: Sequence[MixtureSource], by: str) -> None:
    if not sources:
        raise UserError("a mixture needs at least one source")
    if by not in ("records", "tokens"):
        raise UserError(f"shares are of records or tokens, not of {by!r}")
    names = [source.name for source in sources]
    for source in sources:
        if names.count(source.name) > 1:
            raise UserError(f"two sources of the mixture are called {source.name!r}: rename one")
        if not (source.weight > 0 and math.isfinite(source.weight)):
            raise UserError(
                f"the weight of {source.name!r} is {source.weight}: give a number above 0, or "
                "leave the source away"
            )
        if source.num_records < 1:
            raise UserError(f"the source {source.name!r} holds no record: leave it away")
        if source.epochs is not None and source.epochs < 1:
            raise UserError(f"{source.name!r} is read for {source.epochs} epochs: give 1 or more")
        if by == "tokens":
            if source.lengths is None:
                raise UserError(f"shares of tokens need the lengths of {source.name!r}")
            if len(source.lengths) != source.num_records or min(source.lengths) < 1:
                raise UserError(
                    f"{source.name!r} needs a length of at least 1 token for each of its "
                    f"{source.num_records} records"
                )


def _told(sources: dict[str, tuple[int, float]]) -> str:
    return ", ".join(
        f"{name} ({records:,} records, weight {weight:g})"
        for name, (records, weight) in sources.items()
    )
