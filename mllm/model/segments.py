"""Which stretch of a packed sequence is one document, and who sees whom inside it.

    sequence   [A A A A A B B B . .]      two documents and padding
    lengths     5, 3, 2                    the last one is padding where `padded` says so

A document is a prefix and perhaps suffixes, each of which sees the prefix and itself alone.

Shapes: B sequences, L tokens of a sequence, l tokens of a document.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask


@dataclass
class Segments:
    """The documents of a batch of sequences; a mask is made once and serves every layer.

    Attributes:
        lengths: of the stretches of each sequence, in order; they sum to L.
        padded: of each sequence, whether its last stretch is padding.
        suffixes: (B, L) number of the suffix, 0 in the prefix; None where no document has any.
    """

    lengths: list[list[int]]
    padded: list[bool]
    suffixes: Tensor | None
    _made: dict[Any, Any] = field(default_factory=dict, repr=False)

    def to(self, device: Any, **kwargs: Any) -> "Segments":
        """The same on another device, as tensors do it."""
        suffixes = None if self.suffixes is None else self.suffixes.to(device, **kwargs)
        return Segments(self.lengths, self.padded, suffixes)

    @property
    def num_tokens(self) -> int:
        """Tokens of all documents, padding not counted."""
        each = zip(self.lengths, self.padded, strict=True)
        return sum(sum(lengths[:-1] if padded else lengths) for lengths, padded in each)

    def mask(self, number: int, start: int, length: int, window: int | None) -> Tensor | None:
        """(1, 1, l, l) boolean, True where a query (third axis) may look at a key (fourth).

        Args:
            start: first token of the document in it.
            length: l.
            window: how many tokens back a layer looks at most, itself among them.

        Returns:
            None where plain causal attention is the same.
        """
        key = (number, start, window)
        if key not in self._made:
            suffixes = torch.zeros(length, dtype=torch.long)
            if self.suffixes is not None:
                suffixes = self.suffixes[number, start : start + length]
            window = None if window is None or window >= length else window
            seen = None
            if window is not None or suffixes.any():
                seen = visibility(torch.zeros_like(suffixes)[None], suffixes[None])
                if window is not None:
                    # A position on its path is the number of tokens that a token sees.
                    positions = seen.sum(-1)
                    seen = seen & (positions.unsqueeze(2) - positions.unsqueeze(1) < window)
            self._made[key] = None if seen is None else seen[None]
        return self._made[key]

    def block_mask(self, window: int | None, device: torch.device) -> BlockMask:
        """The whole batch's mask for flex attention, in blocks of which the empty are skipped."""
        key = ("blocks", window)
        if key not in self._made:
            numbers = [
                torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
                for lengths in self.lengths
            ]
            documents = torch.stack(numbers).to(device)
            suffixes = self.suffixes
            suffixes = torch.zeros_like(documents) if suffixes is None else suffixes.to(device)
            pairs = zip(documents.unsqueeze(1), suffixes.unsqueeze(1), strict=True)
            positions = torch.cat([visibility(*pair).sum(2) for pair in pairs])

            def seen(batch: Tensor, _: Tensor, query: Tensor, key: Tensor) -> Tensor:
                suffix, other = suffixes[batch, query], suffixes[batch, key]
                same = documents[batch, query] == documents[batch, key]
                near = query >= key
                if window is not None:
                    near = near & (positions[batch, query] - positions[batch, key] < window)
                return near & same & ((suffix == other) | (other == 0))

            batch_size, length = documents.shape
            made = create_block_mask(seen, batch_size, None, length, length, device=device)
            self._made[key] = made
        return self._made[key]

    def boundaries(self, device: torch.device) -> tuple[Tensor, int]:
        """Where each document starts in the sequences laid end to end; the longest one's length."""
        if "boundaries" not in self._made:
            flat = torch.tensor([length for lengths in self.lengths for length in lengths])
            starts = torch.cat([torch.zeros(1, dtype=torch.long), flat.cumsum(0)])
            self._made["boundaries"] = starts.to(device, torch.int32), int(flat.max())
        return self._made["boundaries"]


def visibility(documents: Tensor, suffixes: Tensor) -> Tensor:
    """(B, L, L) boolean: query i sees key j ≤ i of its document, in the prefix or its suffix.

    Args:
        documents: (B, L) number of the document.
        suffixes: (B, L) number of the suffix, 0 in the prefix.
    """
    length = documents.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=documents.device).tril()
    same_document = documents.unsqueeze(2) == documents.unsqueeze(1)
    same_suffix = suffixes.unsqueeze(2) == suffixes.unsqueeze(1)
    prefix_key = (suffixes == 0).unsqueeze(1)
    return causal & same_document & (same_suffix | prefix_key)
