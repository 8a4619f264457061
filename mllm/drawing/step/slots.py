"""The images being drawn together: a slot each, with their keys and values in a static cache.

Each row of the cache writes at its own position, so images with prompts of different lengths, and
images begun at different times, go through one pass together, without padding.

Shapes: S slots, R rows (S, or 2·S with guidance), N image positions, C positions of the cache,
H heads of keys and values, d width of a head, D width of the model.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Cache

# Attention is over a multiple of this many positions. Those behind a row's own are masked and add
# exact zeros, so that what a row computes does not depend on the length of the others.
BLOCK_SIZE = 16


@dataclass(frozen=True)
class Prefix:
    """What a prompt leaves for the tokens after it."""

    keys: list[Tensor]  # (H, L, d) for each layer
    values: list[Tensor]
    hidden: Tensor  # (D,) last state, which predicts the first code

    def __len__(self) -> int:
        return self.keys[0].shape[1]


class SlotCache(Cache):
    """Keys and values, (R, H, C, d) for each layer; C is a multiple of `growth`, itself one of
    `BLOCK_SIZE`.

    Call `set_positions` before each pass; then `update` is what a layer of transformers expects of
    a cache.
    """

    def __init__(self, num_rows: int, growth: int = BLOCK_SIZE):
        super().__init__(layers=[])
        self.num_rows, self.growth = num_rows, growth
        self.capacity = 0
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def insert(self, row: int, prefix: Prefix, num_more: int) -> None:
        """Begin `row` with a prefix, and make room for `num_more` tokens behind it."""
        needed = -(-(len(prefix) + num_more) // self.growth) * self.growth
        more = max(0, needed - self.capacity)
        self.capacity += more
        for of_prefix, mine in ((prefix.keys, self.keys), (prefix.values, self.values)):
            if not mine:
                mine += [t.new_zeros(self.num_rows, len(t), 0, t.shape[-1]) for t in of_prefix]
            if more:
                mine[:] = [F.pad(tensor, (0, 0, 0, more)) for tensor in mine]
            for tensor, new in zip(mine, of_prefix, strict=True):
                tensor[row, :, : len(prefix)] = new

    def move(self, source: slice, target: slice) -> None:
        """Give the rows `target` what the rows `source` hold."""
        for tensor in (*self.keys, *self.values):
            tensor[target] = tensor[source]

    def num_visible(self, last: int) -> int:
        """How many positions attention is over, where `last` is the last that a row sees."""
        return min(-(-(last + 1) // BLOCK_SIZE) * BLOCK_SIZE, self.capacity)

    def set_positions(self, first: int, positions: Tensor, num_visible: int) -> None:
        """Say where the next pass writes: in the rows from `first` on, each at one of (R',)
        `positions`, the last that it sees of `num_visible` that attention is over."""
        self.rows = slice(first, first + len(positions))
        num_heads = self.keys[0].shape[1]
        heads = torch.arange(first * num_heads, self.rows.stop * num_heads, device=positions.device)
        self.index = heads * self.capacity + positions.repeat_interleave(num_heads)
        self.visible = num_visible

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write (R', H, d) keys and values; return the (R', H, visible, d) ones of the pass."""
        both = []
        for mine, new in ((self.keys[layer], keys), (self.values[layer], values)):
            mine.view(-1, mine.shape[-1]).index_copy_(0, self.index, new.reshape(-1, new.shape[-1]))
            both.append(mine[self.rows, :, : self.visible])
        return both[0], both[1]

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """`write` as transformers calls it: with (R', H, 1, d) keys and values."""
        return self.write(layer_idx, key_states.squeeze(2), value_states.squeeze(2))

    def attention_mask(self, positions: Tensor, window: int | None, dtype: torch.dtype) -> Tensor:
        """(R', 1, 1, visible): 0 where a row may look, -inf elsewhere; `positions` as in
        `set_positions`, `window` as in `is_masked`."""
        masked = is_masked(positions, self.visible, window)
        mask = torch.zeros(masked.shape, dtype=dtype, device=positions.device)
        return mask.masked_fill_(masked, -torch.inf)[:, None, None]


def is_masked(positions: Tensor, length: int, window: int | None) -> Tensor:
    """(R, length): whether a token at each of (R,) `positions` may not look at a position; `window`
    says how many positions back a sliding layer looks, None for all."""
    each = torch.arange(length, device=positions.device)
    masked = each > positions.unsqueeze(-1)
    if window is not None:
        masked |= each <= positions.unsqueeze(-1) - window
    return masked


@dataclass
class SlotImage:
    """What is known of an image in a slot without waiting for a GPU."""

    number: int  # of its job
    done: int  # the image position that is drawn next
    longest: int  # where in the cache the next token of its longest row goes
    keeps: bool  # whether any code is given
    keeps_semantics: bool  # whether every semantic code is given


class Slots:
    """The images being drawn; active ones come first.

    Args:
        num_rows: R, or more, where passes are padded.
        rows_each: rows of an image.
        hidden: any tensor of the states' width, dtype and device.

    Attributes:
        images: of the active slots.
        hidden: (R, D) states that predict the next codes.
        uniform: (S, N, 2) noise.
        kept: (S, N, 2) codes of both levels that are given, -1 where they are drawn.
        codes: (S, N) flat codes drawn so far.
        positions: (S,) image position that each draws next; 0 in free slots.
        cache_positions: (R,) where in the cache each row's next token goes; 0 in free slots.
        active: (S,) 1 for an image, 0 for a free slot.
    """

    def __init__(
        self, num_rows: int, rows_each: int, num_positions: int, hidden: Tensor, growth: int
    ):
        num_slots, device = -(-num_rows // rows_each), hidden.device
        shape = (num_slots, num_positions, 2)
        self.images: list[SlotImage] = []
        self.cache, self.rows_each = SlotCache(num_rows, growth), rows_each
        self.hidden = hidden.new_zeros(num_rows, hidden.shape[-1])
        self.uniform = torch.zeros(shape, dtype=torch.float64, device=device)
        self.kept = torch.full(shape, -1, device=device)
        self.codes = torch.zeros(shape[:2], dtype=torch.int64, device=device)
        self.positions = torch.zeros(num_slots, dtype=torch.int64, device=device)
        self.cache_positions = torch.zeros(num_rows, dtype=torch.int64, device=device)
        self.active = torch.zeros_like(self.positions)

    def rows_of(self, slot: int) -> slice:
        """The rows of a slot."""
        return slice(slot * self.rows_each, (slot + 1) * self.rows_each)

    def add(
        self, number: int, first: int, prefixes: list[Prefix], kept: Tensor, num_more: int
    ) -> int:
        """Put a job into the first free slot, which is returned.

        Args:
            first: image position that it begins at.
            prefixes: what each of its rows begins with.
            kept: (N, 2) codes that are given.
            num_more: positions to keep free behind a prefix.
        """
        slot, rows = len(self.images), self.rows_of(len(self.images))
        lengths, given = list(map(len, prefixes)), kept >= 0
        image = SlotImage(number, first, max(lengths), bool(given.any()), bool(given[:, 0].all()))
        self.images.append(image)
        self.positions[slot], self.active[slot], self.kept[slot] = first, 1, kept
        self.cache_positions[rows] = torch.tensor(lengths, device=self.codes.device)
        for row, prefix in enumerate(prefixes, start=rows.start):
            self.cache.insert(row, prefix, num_more)
            self.hidden[row] = prefix.hidden
        return slot

    def count(self) -> None:
        """Note that every active slot has drawn a code; the tensors say so already."""
        for image in self.images:
            image.done += 1
            image.longest += 1

    def drop(self, slot: int) -> None:
        """Free a slot; the last active one takes its place."""
        last = len(self.images) - 1
        self.images[slot] = self.images[last]
        self.images.pop()
        mine, of_last = self.rows_of(slot), self.rows_of(last)
        if slot != last:
            self.cache.move(of_last, mine)
            for tensor in (self.hidden, self.cache_positions):
                tensor[mine] = tensor[of_last]
            for tensor in (self.uniform, self.kept, self.codes, self.positions, self.active):
                tensor[slot] = tensor[last]
        self.positions[last] = self.active[last] = 0
        self.cache_positions[of_last] = 0
