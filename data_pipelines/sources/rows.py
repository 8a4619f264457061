"""The two shapes of a source: rows that can be read in any order, and streams that cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from data_pipelines.records import Record, Reject
from runtime.errors import UserError


@dataclass(frozen=True)
class Rows:
    """Records by index, each read when it is asked for; several processes share them out."""

    count: int
    """How many there are, rejects included."""
    read: Callable[[int], Record | Reject]
    """Reads one; may raise whatever hostile data provokes."""

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Record | Reject:
        if not 0 <= index < self.count:
            raise IndexError(f"record {index} of {self.count}")
        return self.read(index)

    def __iter__(self) -> Iterator[Record | Reject]:
        return map(self.read, range(self.count))


@dataclass(frozen=True)
class Streams:
    """Sequences that are read from their beginning, such as tars; each is read by one process."""

    opened: list[Callable[[], Iterable[Record | Reject]]]
    """Opens each."""

    def __iter__(self) -> Iterator[Record | Reject]:
        for open_stream in self.opened:
            yield from open_stream()


def guarded(name: str, number: int, read: Callable[[], Record | Reject]) -> Record | Reject:
    """Read one record; whatever its data provoke becomes a reject.

    Args:
        name: of the source, for the reject's id.
        number: of the record, from 0.
        read: the reading.

    Raises:
        UserError: if the source as a whole is at fault.
    """
    try:
        return read()
    except UserError:
        raise
    except ValueError as error:  # ours, in one clause
        return Reject(f"{name}#{number}", str(error))
    # Somebody's JSON may hold anything anywhere, and each reader trips over it in its own way.
    except Exception as error:
        return Reject(
            f"{name}#{number}", f"it is not laid out as it should be ({type(error).__name__})"
        )
