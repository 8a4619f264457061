"""The images being drawn together: a slot each, with one row of the cache or two."""

from torch import Tensor

from .slot_cache import SlotCache


class Slots:
    """The images being drawn; active ones come first.

    Attributes:
        numbers: of the jobs.
        places: image position that each draws next.
        lengths: places taken by each one's prompts.
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
        self.numbers: list[int] = []
        self.places: list[int] = []
        self.lengths: list[list[int]] = []
        self.keeps: list[bool] = []
        self.keeps_semantics: list[bool] = []

    @property
    def _lists(self) -> list[list]:
        return [self.numbers, self.places, self.lengths, self.keeps, self.keeps_semantics]

    def add(self, *values: object) -> None:
        """Put a job into the first free slot."""
        for entries, value in zip(self._lists, values, strict=True):
            entries.append(value)

    def drop(self, slot: int) -> None:
        """Free a slot; the last active one takes its place."""
        last = len(self.numbers) - 1
        for entries in self._lists:
            entries[slot] = entries[last]
            entries.pop()
        if slot == last:
            return
        for branch in range(self.rows_each):
            source, target = last * self.rows_each + branch, slot * self.rows_each + branch
            self.cache.move(source, target)
            self.hidden[target] = self.hidden[source]
        for tensor in (self.uniform, self.kept, self.codes):
            tensor[slot] = tensor[last]
