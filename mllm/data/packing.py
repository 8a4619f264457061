"""Pack documents into sequences of one length; nobody sees across a document.

documents of 5, 3 and 4 tokens in sequences of 8:  [A A A A A B B B]  [C C C C . . . .]
"""

from collections.abc import Iterable, Iterator
from math import ceil
from operator import itemgetter

import torch
from torch import Tensor

from mllm.data.documents import IGNORE, Document
from mllm.model.segments import Segments


def plan_sequences(
    lengths: Iterable[int], max_seq_length: int, num_open: int = 16
) -> Iterator[list[int]]:
    """Best-fit packing over a stream of documents, none of which is longer than a sequence.

    Args:
        lengths: of the documents, in order.
        max_seq_length: tokens of a sequence.
        num_open: sequences kept open for a better fit; the fullest leaves when there are more.

    Yields:
        Document numbers of one sequence; each document in exactly one sequence.
    """
    open_sequences: list[tuple[int, list[int]]] = []  # (free tokens, documents)
    for number, length in enumerate(lengths):
        fitting = [one for one in open_sequences if one[0] >= length]
        free, documents = min(fitting, key=itemgetter(0), default=(max_seq_length, []))
        if fitting:
            open_sequences.remove((free, documents))
        open_sequences.append((free - length, [*documents, number]))
        if len(open_sequences) > num_open:
            fullest = min(open_sequences, key=itemgetter(0))
            open_sequences.remove(fullest)
            yield fullest[1]
    for _, documents in open_sequences:
        yield documents


def pack(
    sequences: list[list[Document]], length: int | None, pad_token_id: int
) -> dict[str, Tensor | Segments]:
    """Tensors of a batch of packed sequences.

    Args:
        length: L; None takes the longest sequence's, rounded up to a multiple of 8.

    Returns:
        `input_ids`, `labels`, `label_weights`, `position_ids` (B, L), and `segments`, which says
        where documents begin.
    """
    if length is None:
        length = ceil(max(sum(map(len, documents)) for documents in sequences) / 8) * 8
    fill = {
        "input_ids": pad_token_id, "labels": IGNORE, "label_weights": 0.0, "position_ids": 0,
        "suffixes": 0,
    }  # fmt: skip
    batch: dict[str, list[list]] = {name: [] for name in fill}
    lengths, padded = [], []
    for documents in sequences:
        padding = length - sum(map(len, documents))
        columns = [document.columns() for document in documents]
        for name in fill:
            joined = [value for column in columns for value in column[name]]
            batch[name].append(joined + [fill[name]] * padding)
        lengths.append([*map(len, documents)] + [padding] * (padding > 0))
        padded.append(padding > 0)
    suffixes = batch.pop("suffixes")
    has_suffixes = any(map(any, suffixes))
    segments = Segments(lengths, padded, torch.tensor(suffixes) if has_suffixes else None)
    return {name: torch.tensor(values) for name, values in batch.items()} | {"segments": segments}
