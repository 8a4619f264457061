"""Attention that never crosses documents of a packed sequence, in three ways.

`sdpa`: each document by itself, by PyTorch's own kernels. Work grows with the sum of the documents'
    squared lengths, not with the sequence's; on a CPU nothing here is faster.
`flex`: one kernel for the batch that skips empty blocks of its mask (PyTorch's FlexAttention); on a
    GPU for training, since it has no backward pass on a CPU.
`flash`: FlashAttention over documents laid end to end, in bfloat16 on a GPU; it knows no shared
    prefixes, so several questions about an image must be turns of one conversation.

For a batch without `Segments`, as in generation, attention is transformers' own SDPA.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from mllm.model.segments import Segments

PREFIX = "documents_by_"


def choose_attention(decoder: Any, way: str) -> None:
    """Switch the language model's decoder to "sdpa", "flex" or "flash"."""
    decoder.config._attn_implementation = PREFIX + way


def has_choice(decoder: Any) -> bool:
    """Whether `choose_attention` was called."""
    return str(decoder.config._attn_implementation).startswith(PREFIX)


def _by_sdpa(
    module: Any, query: Tensor, key: Tensor, value: Tensor, segments: Segments, **kwargs: Any
) -> Tensor:
    """(B, heads, L, D) → (B, L, heads, D)."""
    window = kwargs.pop("sliding_window", None)
    sequences = []
    tensors = (query.split(1), key.split(1), value.split(1))
    for sequence, (lengths, parts) in enumerate(
        zip(segments.lengths, zip(*tensors, strict=True), strict=True)
    ):
        outputs, start = [], 0
        # Split, not sliced: the gradients of slices would each be as large as the sequence.
        documents = list(zip(*(part.split(lengths, 2) for part in parts), strict=True))
        for number, (q, k, v) in enumerate(documents):
            if segments.padded[sequence] and number == len(lengths) - 1:
                outputs.append(torch.zeros_like(q).transpose(1, 2))
                continue
            mask = segments.mask(sequence, start, lengths[number], window)
            mask = None if mask is None else mask.to(q.device)
            outputs.append(sdpa_attention_forward(module, q, k, v, mask, **kwargs)[0])
            start += lengths[number]
        sequences.append(torch.cat(outputs, 1))
    return torch.cat(sequences)


def _by_flex(
    module: Any, query: Tensor, key: Tensor, value: Tensor, segments: Segments, **kwargs: Any
) -> Tensor:
    mask = segments.block_mask(kwargs.get("sliding_window"), query.device)
    call: Any = _compiled_flex() if query.is_cuda else flex_attention
    output = call(
        query, key, value, block_mask=mask, scale=kwargs.get("scaling"),
        enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip
    return output.transpose(1, 2)


@cache
def _compiled_flex() -> Callable[..., Tensor]:
    """Flex attention, compiled: otherwise it would make the scores of whole sequences."""
    return torch.compile(flex_attention)


def _by_flash(
    module: Any, query: Tensor, key: Tensor, value: Tensor, segments: Segments, **kwargs: Any
) -> Tensor:
    starts, longest = segments.boundaries(query.device)
    window = kwargs.get("sliding_window")
    # (B, heads, L, D) → (B·L, heads, D), the sequences end to end.
    q, k, v = (part.transpose(1, 2).flatten(0, 1) for part in (query, key, value))
    output = varlen_attn(
        q, k, v, starts, starts, longest, longest, scale=kwargs.get("scaling"),
        window_size=(-1 if window is None else window - 1, 0), enable_gqa=q.shape[1] != k.shape[1],
    )  # fmt: skip
    assert isinstance(output, Tensor)
    return output.unflatten(0, (query.shape[0], -1))


def _attend(
    by: Callable[..., Tensor],
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    segments: Segments | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    if kwargs.get("softcap") is not None:
        raise ValueError("this attention does not cap its scores, as the model needs")
    if segments is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    kept = {name: kwargs.get(name) for name in ("scaling", "sliding_window")}
    output = by(module, query, key, value, segments, dropout=kwargs.get("dropout", 0.0), **kept)
    return output.contiguous(), None


WAYS: dict[str, Callable[..., Tensor]] = {"sdpa": _by_sdpa, "flex": _by_flex, "flash": _by_flash}
for _way, _by in WAYS.items():
    AttentionInterface.register(PREFIX + _way, partial(_attend, _by))
    AttentionMaskInterface.register(PREFIX + _way, sdpa_mask)
