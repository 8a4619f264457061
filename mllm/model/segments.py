"""Which stretch of a packed row is one document, and who sees whom inside it.

    row        [A A A A A B B B . .]      two documents and padding
    lengths     5, 3, 2                    the last one is padding where `padded` says so

Shapes: B rows, L tokens of a row, l tokens of a document.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask


@dataclass
class Segments:
    """The documents of a batch of rows; a mask of it is made once and serves every layer.

    Attributes:
        lengths: of the stretches of each row, in order; they sum to L.
        padded: of each row, whether its last stretch is padding.
        branches: (B, L) number of the branch, 0 in the stem; None where no document has any.
    """

    lengths: list[list[int]]
    padded: list[bool]
    branches: Tensor | None
    _made: dict[Any, Any] = field(default_factory=dict, repr=False)

    def to(self, device: Any, **kwargs: Any) -> "Segments":
        """The same on another device, as tensors do it."""
        branches = None if self.branches is None else self.branches.to(device, **kwargs)
        return Segments(self.lengths, self.padded, branches)

    @property
    def num_tokens(self) -> int:
        """Tokens of all documents, padding not counted."""
        whole = sum(map(sum, self.lengths))
        return whole - sum(
            row[-1] for row, pad in zip(self.lengths, self.padded, strict=True) if pad
        )

    def mask(self, row: int, start: int, length: int, window: int | None) -> Tensor | None:
        """(1, 1, l, l) boolean, True where a query (third axis) may look at a key (fourth).

        Args:
            row: of the document.
            start: its first token in the row.
            length: l.
            window: how many tokens back a layer looks at most, itself among them.

        Returns:
            None where plain causal attention is the same.
        """
        key = (row, start, window)
        if key not in self._made:
            self._made[key] = self._mask(row, start, length, window)
        return self._made[key]

    def _mask(self, row: int, start: int, length: int, window: int | None) -> Tensor | None:
        branches = None
        if self.branches is not None:
            branches = self.branches[row, start : start + length]
        if window is not None and window >= length:
            window = None
        if window is None and (branches is None or not branches.any()):
            return None
        if branches is None:
            branches = torch.zeros(length, dtype=torch.long)
        documents = torch.zeros_like(branches)
        seen = visibility(documents[None], branches[None])
        if window is not None:
            seen = seen & _near(branches, window)
        return seen[None]

    def block_mask(self, window: int | None, device: torch.device) -> BlockMask:
        """The whole batch's mask for flex attention, in blocks of which the empty are skipped."""
        key = ("blocks", window)
        if key not in self._made:
            numbers = [torch.arange(len(row)).repeat_interleave(torch.tensor(row))
                       for row in self.lengths]  # fmt: skip
            documents = torch.stack(numbers).to(device)
            branches = self.branches
            branches = torch.zeros_like(documents) if branches is None else branches.to(device)
            positions = torch.stack(
                [_positions(d, b) for d, b in zip(documents, branches, strict=True)]
            )

            def seen(batch: Tensor, _: Tensor, query: Tensor, key: Tensor) -> Tensor:
                branch, other = branches[batch, query], branches[batch, key]
                same = documents[batch, query] == documents[batch, key]
                near = query >= key
                if window is not None:
                    near = near & (positions[batch, query] - positions[batch, key] < window)
                return near & same & ((branch == other) | (other == 0))

            shape = documents.shape
            self._made[key] = create_block_mask(
                seen, shape[0], None, shape[1], shape[1], device=device
            )
        return self._made[key]

    def boundaries(self, device: torch.device) -> tuple[Tensor, int]:
        """Where each document starts in the rows laid end to end, and the longest one's length."""
        if "boundaries" not in self._made:
            flat = torch.tensor([length for row in self.lengths for length in row])
            starts = torch.cat([torch.zeros(1, dtype=torch.long), flat.cumsum(0)])
            self._made["boundaries"] = starts.to(device, torch.int32), int(flat.max())
        return self._made["boundaries"]


def visibility(documents: Tensor, branches: Tensor) -> Tensor:
    """(B, L, L) boolean: query i sees key j ≤ i of its document, in the stem or its branch.

    Args:
        documents: (B, L) number of the document.
        branches: (B, L) number of the branch, 0 in the stem.
    """
    length = documents.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=documents.device).tril()
    same_document = documents.unsqueeze(2) == documents.unsqueeze(1)
    same_branch = branches.unsqueeze(2) == branches.unsqueeze(1)
    stem_key = (branches == 0).unsqueeze(1)
    return causal & same_document & (same_branch | stem_key)


def _positions(documents: Tensor, branches: Tensor) -> Tensor:
    """(L,) place of each token along its own path: how many tokens it sees before itself."""
    return visibility(documents[None], branches[None])[0].sum(1) - 1


def _near(branches: Tensor, window: int) -> Tensor:
    """(l, l) boolean: the key is less than `window` tokens back on the query's path."""
    positions = _positions(torch.zeros_like(branches), branches)
    return positions[:, None] - positions[None] < window
