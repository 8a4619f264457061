"""A static cache whose rows are at different places: the keys and values of images being drawn.

Each row writes at its own place, so images with prompts of different lengths, and images begun at
different times, go through one pass together, without padding.

Shapes: R rows in a pass, C places a row, H heads of keys and values, d width of a head.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

# Attention is over a multiple of this many places. The places behind a row's own are masked and add
# exact zeros, so that what a row computes does not depend on the length of the others.
PLACES = 16


@dataclass(frozen=True)
class Prefix:
    """What a prompt leaves for the tokens after it.

    Attributes:
        keys, values: (H, L, d) for each layer.
        hidden: (D,) last state, which predicts the first code.
    """

    keys: list[Tensor]
    values: list[Tensor]
    hidden: Tensor

    def __len__(self) -> int:
        return self.keys[0].shape[1]


class SlotCache(Cache):
    """Keys and values, (rows, H, C, d) for each layer.

    Call `aim` before each pass; then `update` is what a layer of transformers expects of a cache.

    Args:
        num_rows: rows.
        grows_by: the places of a row are a multiple of this, itself one of `PLACES`.
    """

    def __init__(self, num_rows: int, grows_by: int = PLACES):
        super().__init__(layers=[])
        self.num_rows, self.grows_by = num_rows, grows_by
        self.capacity = 0
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    @classmethod
    def over(
        cls, keys: list[Tensor], values: list[Tensor], places: Tensor, seen: int
    ) -> "SlotCache":
        """Another cache of the same tensors, aimed at all rows.

        Args:
            keys, values: (R, H, C, d) for each layer.
            places: (R,) see `aim`.
            seen: places that attention is over.
        """
        cache = cls(len(places))
        cache.keys, cache.values, cache.capacity = keys, values, keys[0].shape[2]
        cache._aim(0, places, seen)
        return cache

    def insert(self, row: int, prefix: Prefix, num_more: int) -> None:
        """Begin `row` with a prefix, and see to it that `num_more` tokens fit behind it."""
        if not self.keys:
            for of_prefix, mine in ((prefix.keys, self.keys), (prefix.values, self.values)):
                mine += [t.new_zeros(self.num_rows, len(t), 0, t.shape[-1]) for t in of_prefix]
        self._grow(len(prefix) + num_more)
        for of_prefix, mine in ((prefix.keys, self.keys), (prefix.values, self.values)):
            for layer, tensor in enumerate(of_prefix):
                mine[layer][row, :, : len(prefix)] = tensor

    def _grow(self, num_places: int) -> None:
        if num_places <= self.capacity:
            return
        more = -(-num_places // self.grows_by) * self.grows_by - self.capacity
        self.capacity += more
        for mine in (self.keys, self.values):
            mine[:] = [
                torch.cat([t, t.new_zeros(*t.shape[:2], more, t.shape[-1])], dim=2) for t in mine
            ]

    def move(self, source: slice, target: slice) -> None:
        """Give the rows `target` what the rows `source` hold."""
        for tensor in (*self.keys, *self.values):
            tensor[target] = tensor[source]

    def aim(self, first: int, places: Tensor, longest: int) -> None:
        """Say where the next pass writes.

        Args:
            first: its first row; the others follow.
            places: (R,) where each row writes, which is also the last place that it sees.
            longest: the greatest of `places`.
        """
        self._aim(first, places, self.places_seen(longest))

    def places_seen(self, longest: int) -> int:
        """How many places attention is over, where `longest` is the last that a row sees."""
        return min(-(-(longest + 1) // PLACES) * PLACES, self.capacity)

    def _aim(self, first: int, places: Tensor, seen: int) -> None:
        self.rows = slice(first, first + len(places))
        num_heads = self.keys[0].shape[1]
        heads = torch.arange(first * num_heads, self.rows.stop * num_heads, device=places.device)
        self.index = heads * self.capacity + places.repeat_interleave(num_heads)
        self.seen = seen

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write (R, H, d) keys and values; return (R, H, seen, d) of all places of the pass."""
        both = []
        for mine, new in ((self.keys[layer], keys), (self.values[layer], values)):
            mine.view(-1, mine.shape[-1]).index_copy_(0, self.index, new.reshape(-1, new.shape[-1]))
            both.append(mine[self.rows, :, : self.seen])
        return both[0], both[1]

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """As in transformers, for one new token a row: (R, H, 1, d) in, (R, H, seen, d) out."""
        return self.write(layer_idx, key_states.squeeze(2), value_states.squeeze(2))

    def mask(self, places: Tensor, window: int | None, dtype: torch.dtype) -> Tensor:
        """(R, 1, 1, seen): 0 where a row may look, -inf elsewhere.

        Args:
            places: (R,) as in `aim`.
            window: how many places back a sliding layer looks; None for all.
            dtype: of the scores.
        """
        hidden = out_of_sight(places, self.seen, window)
        mask = torch.zeros(hidden.shape, dtype=dtype, device=places.device)
        return mask.masked_fill_(hidden, -torch.inf)[:, None, None]


def out_of_sight(places: Tensor, seen: int, window: int | None) -> Tensor:
    """(R, seen): whether a token at each of (R,) `places` may not look at each place of its row."""
    each = torch.arange(seen, device=places.device)
    hidden = each > places.unsqueeze(-1)
    if window is not None:
        hidden |= each <= places.unsqueeze(-1) - window
    return hidden
