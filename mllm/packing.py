"""Pack documents into rows of one length; nobody sees across a document.

documents of 5, 3 and 4 tokens in rows of 8:  [A A A A A B B B]  [C C C C . . . .]
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from mllm.sequences import IGNORE, Document


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


def pack(rows: list[list[Document]], row_length: int, pad_token_id: int) -> dict[str, Tensor]:
    """Tensors of a batch of packed rows.

    Returns:
        `input_ids`, `labels`, `label_weights`, `position_ids` (B, L) and `attention_mask`
        (B, 1, L, L), True where a query (third axis) may look at a key (fourth).
    """
    batch: dict[str, list[list]] = {
        "input_ids": [], "labels": [], "label_weights": [], "position_ids": [],
    }  # fmt: skip
    documents, branches = [], []
    for row in rows:
        padding = row_length - sum(len(document) for document in row)
        batch["input_ids"].append(_join(row, "token_ids", pad_token_id, padding))
        batch["labels"].append(_join(row, "labels", IGNORE, padding))
        batch["label_weights"].append(_join(row, "weights", 0.0, padding))
        batch["position_ids"].append(_join(row, "positions", 0, padding))
        branches.append(_join(row, "branches", 0, padding))
        # Padding is a document of its own, so that each of its rows sees something (itself).
        numbers = [number for number, document in enumerate(row) for _ in range(len(document))]
        documents.append(numbers + [len(row)] * padding)
    tensors = {name: torch.tensor(values) for name, values in batch.items()}
    mask = visibility(torch.tensor(documents), torch.tensor(branches))
    return tensors | {"attention_mask": mask.unsqueeze(1)}


def visibility(documents: Tensor, branches: Tensor) -> Tensor:
    """(B, L, L) boolean: query i sees key j ≤ i of its document, in the stem or its branch.

    Args:
        documents: (B, L) number of the document.
        branches: (B, L) number of the branch, 0 in the stem.
    """
    length = documents.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    same_document = documents.unsqueeze(2) == documents.unsqueeze(1)
    same_branch = branches.unsqueeze(2) == branches.unsqueeze(1)
    stem_key = (branches == 0).unsqueeze(1)
    return causal & same_document & (same_branch | stem_key)


def _join(row: list[Document], name: str, fill: float, padding: int) -> list:
    values = [value for document in row for value in getattr(document, name)]
    return values + [fill] * padding
