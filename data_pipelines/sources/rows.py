"""The two shapes of a source: rows that can be read in any order, and streams that cannot."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from data_pipelines.records import Record, Reject
from runtime.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Found:
    """What an entry of a source gives: everything in it is in the record, rejected or named."""

    record: Record | None
    """None where nothing of the entry can be used."""
    rejects: list[Reject] = field(default_factory=list)
    """The entry, or parts of it, that cannot be read."""
    unread: tuple[str, ...] = ()
    """Columns, or files, of the entry that nothing was read from."""


@dataclass(frozen=True)
class Rows:
    """Entries by index, each read when it is asked for; several processes share them out."""

    count: int
    """How many there are."""
    read: Callable[[int], Found]
    """Reads one, whatever hostile data provoke; raises a `UserError` alone."""
    notes: tuple[str, ...] = ()
    """Sentences about what of the source is not read."""

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Found]:
        return map(self.read, range(self.count))


@dataclass(frozen=True)
class Streams:
    """Sequences that are read from their beginning, such as tars; each is read by one process."""

    opened: list[Callable[[], Iterable[Found]]]
    """Opens each."""
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Found]:
        for open_stream in self.opened:
            yield from open_stream()


def guarded(entry_id: str, read: Callable[..., Found], *args: Any) -> Found:
    """Read one entry; whatever its data provoke becomes a reject of this id."""
    rejects: list[Reject] = []
    return attempt(rejects, entry_id, read, *args) or Found(None, rejects)


def attempt(
    rejects: list[Reject], part_id: str, read: Callable[..., T], *args: Any, kind: str = ""
) -> T | None:
    """Read a part of an entry with `read(*args)`; None, and a reject, where it cannot be read.

    A `UserError` passes: the source as a whole is at fault.

    Args:
        rejects: where to note it.
        part_id: the part's own id, or that of its record.
        kind: of a part without an id of its own, see `Reject`.
    """
    try:
        return read(*args)
    except UserError:
        raise
    except ValueError as error:  # ours, in one clause
        reason = str(error)
    # Somebody's JSON may hold anything anywhere, and each reader trips over it in its own way.
    except Exception as error:
        reason = f"it is not laid out as it should be ({type(error).__name__})"
    rejects.append(Reject(part_id, reason, kind))
    return None
