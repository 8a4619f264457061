"""Pack documents into rows of one length; nobody sees across a document.

documents of 5, 3 and 4 tokens in rows of 8:  [A A A A A B B B]  [C C C C . . . .]
"""

from collections.abc import Iterable, Iterator
from math import ceil

import torch
from torch import Tensor

from mllm.data.sequences import IGNORE, Document
from mllm.model.segments import Segments


def plan_rows(lengths: Iterable[int], row_length: int, num_open: int = 16) -> Iterator[list[int]]:
    """Best-fit packing over a stream.

    Args:
        lengths: of the documents, in order.
        row_length: tokens per row.
        num_open: rows kept open for a better fit; the fullest leaves when there are more.

    Yields:
        Document numbers of one row; each document in exactly one row.

    Raises:
        ValueError: if a document is longer than a row.
    """
    open_rows: list[tuple[int, list[int]]] = []  # (free tokens, documents)
    for number, length in enumerate(lengths):
        if length > row_length:
            raise ValueError(
                f"A document of {length} tokens does not fit into rows of {row_length}: raise "
                f"row_length or shorten the document."
            )
        fitting = [index for index, (free, _) in enumerate(open_rows) if free >= length]
        if fitting:
            best = min(fitting, key=lambda index: open_rows[index][0])
            free, documents = open_rows.pop(best)
            open_rows.append((free - length, [*documents, number]))
        else:
            open_rows.append((row_length - length, [number]))
        if len(open_rows) > num_open:
            fullest = min(range(len(open_rows)), key=lambda index: open_rows[index][0])
            yield open_rows.pop(fullest)[1]
    for _, documents in open_rows:
        yield documents


def pack(
    rows: list[list[Document]], row_length: int | None, pad_token_id: int
) -> dict[str, Tensor | Segments]:
    """Tensors of a batch of packed rows.

    Args:
        rows: documents of each row.
        row_length: L; None takes the longest row's, rounded up to a multiple of 8.
        pad_token_id: what fills a row up.

    Returns:
        `input_ids`, `labels`, `label_weights`, `position_ids` (B, L), and `segments`, which says
        where documents begin.
    """
    if row_length is None:
        row_length = ceil(max(sum(map(len, row)) for row in rows) / 8) * 8
    batch: dict[str, list[list]] = {
        "input_ids": [], "labels": [], "label_weights": [], "position_ids": [],
    }  # fmt: skip
    lengths, padded, branches = [], [], []
    for row in rows:
        padding = row_length - sum(len(document) for document in row)
        batch["input_ids"].append(_join(row, "token_ids", pad_token_id, padding))
        batch["labels"].append(_join(row, "labels", IGNORE, padding))
        batch["label_weights"].append(_join(row, "weights", 0.0, padding))
        batch["position_ids"].append(_join(row, "positions", 0, padding))
        branches.append(_join(row, "branches", 0, padding))
        lengths.append([len(document) for document in row] + [padding] * (padding > 0))
        padded.append(padding > 0)
    has_branches = any(map(any, branches))
    segments = Segments(lengths, padded, torch.tensor(branches) if has_branches else None)
    return {name: torch.tensor(values) for name, values in batch.items()} | {"segments": segments}


def _join(row: list[Document], name: str, fill: float, padding: int) -> list:
    values = [value for document in row for value in getattr(document, name)]
    return values + [fill] * padding
