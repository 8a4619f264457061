"""The images being drawn together: a slot each, with one row of the cache or two."""

import torch
from torch import Tensor

from mllm.drawing.slot_cache import SlotCache


class Slots:
    """The images being drawn; active ones come first.

    Attributes:
        hidden: (rows, D) states that predict the next codes.
        uniform: (slots, N, 2) noise.
        kept: (slots, N, 2) codes of both levels that are given, -1 where they are drawn.
        codes: (slots, N) flat codes drawn so far.
        positions: (slots,) image position that each draws next; 0 in free slots.
        row_places: (rows,) where in the cache each row's next token goes; 0 in free slots.
        active: (slots,) 1 for an image, 0 for a free slot.
        numbers: of the jobs.
        done: `positions` as a list, so that a GPU need not be waited for; so is the next.
        longest: greatest of a slot's `row_places`.
        keeps, keeps_semantics: whether any code, or every semantic code, is given.
    """

    def __init__(
        self,
        cache: SlotCache,
        rows_each: int,
        hidden: Tensor,
        uniform: Tensor,
        kept: Tensor,
        codes: Tensor,
    ):
        self.cache, self.rows_each = cache, rows_each
        self.hidden, self.uniform, self.kept, self.codes = hidden, uniform, kept, codes
        self.positions = torch.zeros(len(codes), dtype=torch.int64, device=codes.device)
        self.row_places = torch.zeros(len(hidden), dtype=torch.int64, device=codes.device)
        self.active = torch.zeros_like(self.positions)
        self.numbers: list[int] = []
        self.done: list[int] = []
        self.longest: list[int] = []
        self.keeps: list[bool] = []
        self.keeps_semantics: list[bool] = []

    @property
    def _lists(self) -> list[list]:
        return [self.numbers, self.done, self.longest, self.keeps, self.keeps_semantics]

    @property
    def _of_slots(self) -> list[Tensor]:
        return [self.uniform, self.kept, self.codes, self.positions, self.active]

    def rows_of(self, slot: int) -> slice:
        """The rows of a slot."""
        return slice(slot * self.rows_each, (slot + 1) * self.rows_each)

    def add(self, number: int, first: int, places: list[int], kept: Tensor) -> int:
        """Put a job into the first free slot.

        Args:
            number: of the job.
            first: image position that it begins at.
            places: where in the cache each of its rows goes on.
            kept: (N, 2) codes that are given.

        Returns:
            The slot.
        """
        slot = len(self.numbers)
        given = kept >= 0
        values = number, first, max(places), bool(given.any()), bool(given[:, 0].all())
        for entries, value in zip(self._lists, values, strict=True):
            entries.append(value)
        self.positions[slot], self.active[slot] = first, 1
        self.row_places[self.rows_of(slot)] = torch.tensor(places, device=self.codes.device)
        self.kept[slot] = kept
        return slot

    def count(self, first: int, count: int) -> None:
        """Note that `count` slots from `first` have drawn a code; the tensors say so already."""
        for slot in range(first, first + count):
            self.done[slot] += 1
            self.longest[slot] += 1

    def drop(self, slot: int) -> None:
        """Free a slot; the last active one takes its place."""
        last = len(self.numbers) - 1
        for entries in self._lists:
            entries[slot] = entries[last]
            entries.pop()
        mine, of_last = self.rows_of(slot), self.rows_of(last)
        if slot != last:
            self.cache.move(of_last, mine)
            for tensor in (self.hidden, self.row_places):
                tensor[mine] = tensor[of_last]
            for tensor in self._of_slots:
                tensor[slot] = tensor[last]
        self.positions[last] = self.active[last] = 0
        self.row_places[of_last] = 0
