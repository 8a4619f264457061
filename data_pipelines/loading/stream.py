"""Batches out of a mixture of prepared folders, which can stop anywhere and go on exactly.

    stream = Stream([StreamSource("photos", PreparedDataset("data/photos"), weight=3), ...],
                    make=CaptionedImage(ImageTransform(256, flip=True)), batch_size=256, seed=0)
    for batch in stream:
        ...
        torch.save({..., "stream": stream.state_dict()}, path)

The global batches are planned in each rank's own process, alike on all of them; a rank takes its
slice, and its workers only fetch. So a state holds for any number of workers, and for any number of
ranks that divides the batch: the rule is that the global batches stay the same, whoever reads them.
The state is that after the last batch that was handed out, however many were fetched ahead.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch.utils.data import DataLoader, Dataset

from data_pipelines.images import open_image
from data_pipelines.loading.mixture import Draw, Mixture, MixtureSource
from data_pipelines.loading.transforms import ImageTransform
from data_pipelines.records import Record
from runtime.errors import UserError


class Records(Protocol):
    """What a stream reads from, such as `PreparedDataset`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...


@dataclass(frozen=True)
class StreamSource:
    """One source of a stream."""

    name: str
    """Unique in the stream."""
    records: Records
    """Where its records are read; opened with `images_only` where `make` wants images."""
    weight: float = 1.0
    """See `MixtureSource`, as for the others."""
    epochs: int | None = None
    lengths: Sequence[int] | None = None


@dataclass(frozen=True)
class CaptionedImage:
    """Makes an item of a record: its pixels, one of its captions, and where they are from."""

    transform: ImageTransform
    """From picture to pixels."""
    caption_dropout: float = 0.0
    """Probability of an empty caption."""
    fast_jpeg: bool = False
    """Decode large JPEGs at a half, a quarter or an eighth of their size where that is still
    enough; faster, and as sharp, but not the same pixels."""

    def __call__(self, record: Record, draw: random.Random) -> dict[str, Any]:
        """Returns "pixels" (size, size, 3) uint8, "caption" and "record_id"."""
        assert record.image is not None
        smallest = self.transform.size if self.fast_jpeg else None
        image = open_image(record.image, name=f"the image of {record.record_id}", at_least=smallest)
        pixels = self.transform(image, record.captions, draw)
        caption = draw.choice(record.captions) if record.captions else ""
        if draw.random() < self.caption_dropout:
            caption = ""
        return {
            "pixels": torch.from_numpy(pixels),
            "caption": caption,
            "record_id": record.record_id,
        }


class Stream:
    """See the top of this file.

    Args:
        sources: what is mixed.
        make: item of a record; its second argument decides everything random, and depends on the
            seed, the source, the epoch and the record alone.
        batch_size: records of a batch, over all ranks.
        seed: of everything.
        by, buffer: see `Mixture`.
        rank, world_size: this process, and how many there are.
        num_workers: processes that read for this one; 0 reads in it.
        collate: list of items -> batch; torch's own by default.

    Raises:
        UserError: for sources that cannot be mixed, or a batch that ranks cannot share.
    """

    def __init__(
        self,
        sources: Sequence[StreamSource],
        make: Callable[[Record, random.Random], Any],
        batch_size: int,
        seed: int = 0,
        by: Literal["records", "tokens"] = "records",
        buffer: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        collate: Callable[[list[Any]], Any] | None = None,
    ) -> None:
        if batch_size < 1 or batch_size % world_size:
            raise UserError(
                f"a batch of {batch_size} records cannot be shared by {world_size} ranks: "
                f"choose a multiple of {world_size}"
            )
        mixed = [
            MixtureSource(each.name, len(each.records), each.weight, each.epochs, each.lengths)
            for each in sources
        ]
        self._mixture = lambda: Mixture(mixed, seed, by, buffer)
        self._state = self._mixture().state_dict()
        self._items = _Items(sources, make, seed)
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.num_workers = num_workers
        self.collate = collate

    def __iter__(self) -> Iterator[Any]:
        """Batches of this rank, from the state on; a finite stream's last one may be smaller."""
        mixture = self._mixture()
        mixture.load_state_dict(self._state)
        after: deque[dict[str, Any]] = deque()  # the state after each batch that is under way

        def plan() -> Iterator[list[Draw]]:
            while True:
                batch = [draw for _, draw in zip(range(self.batch_size), mixture, strict=False)]
                first, last = (
                    len(batch) * place // self.world_size for place in (self.rank, self.rank + 1)
                )
                if first == last:
                    return
                after.append(mixture.state_dict())
                yield batch[first:last]

        loader = DataLoader(
            self._items,
            batch_sampler=plan(),
            num_workers=self.num_workers,
            collate_fn=self.collate,
            generator=torch.Generator(),  # the global one's state is part of a checkpoint
        )
        for batch in loader:
            self._state = after.popleft()
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Where the stream is, after the last batch that was handed out; plain JSON."""
        return self._state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state, on as many workers and ranks as this stream has.

        Raises:
            UserError: if it is the state of another stream.
        """
        mixture = self._mixture()
        mixture.load_state_dict(state)
        self._state = mixture.state_dict()


class _Items(Dataset):
    """Item `draw` is what `make` gives of its record."""

    def __init__(
        self,
        sources: Sequence[StreamSource],
        make: Callable[[Record, random.Random], Any],
        seed: int,
    ) -> None:
        self.sources = sources
        self.make = make
        self.seed = seed

    def __getitem__(self, draw: Draw) -> Any:
        source = self.sources[draw.source]
        chance = random.Random(f"{self.seed} {source.name} {draw.epoch} {draw.index}")
        return self.make(source.records[draw.index], chance)
