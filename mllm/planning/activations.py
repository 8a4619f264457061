"""What the backward pass keeps of the forward pass, measured on the meta device.

A formula would hold for one architecture; here the language model itself runs on tensors without
memory, and every tensor that autograd saves is counted once. Attention is counted as a fused kernel
saves it (FlashAttention, arXiv 2205.14135): queries, keys, values, output and one float32
log-sum-exp for each query and head, never the L×L scores.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from mllm.model.modeling_unified import UnifiedModel

_NAME = "saved_by_a_fused_kernel"


@dataclass
class Activations:
    """Bytes for one sequence of the micro-batch on one rank.

    Attributes:
        layers: saved by all decoder layers.
        checkpointed: with activation checkpointing: every layer's input, and the insides of the one
            layer that is being recomputed (Chen et al., arXiv 1604.06174).
        mask: the attention mask, boolean and as the additive one that kernels make of it.
    """

    layers: int
    checkpointed: int
    mask: int


def activations(model: UnifiedModel, length: int, dtype: torch.dtype) -> Activations:
    """Measure one sequence of L = `length` tokens, computed in `dtype`, of a model on the meta
    device, which is not changed."""
    text = model.config.text_config
    decoder = model.language_model.get_decoder()
    before = next(decoder.parameters()).dtype
    AttentionInterface.register(_NAME, _attention)
    attention, decoder.config._attn_implementation = decoder.config._attn_implementation, _NAME
    decoder.to(dtype)
    try:
        total, per_layer = _measure(decoder, length, text.hidden_size, dtype)
    finally:
        decoder.config._attn_implementation = attention
        decoder.to(before)
    inputs = length * text.hidden_size * dtype.itemsize
    return Activations(
        layers=total,
        checkpointed=text.num_hidden_layers * inputs + max(per_layer),
        # A mask is made for each document, and none is longer than the context.
        mask=length * min(length, model.config.context_length or length) * (1 + dtype.itemsize),
    )


def _measure(decoder: Any, length: int, width: int, dtype: torch.dtype) -> tuple[int, list[int]]:
    """Bytes saved by the whole decoder, and by each layer."""
    own = {id(parameter.untyped_storage()) for parameter in decoder.parameters()}
    saved: dict[int, tuple[Any, int]] = {}
    marks = [0]

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if id(storage) not in own:  # the storage itself is kept, or its id would come again
            saved[id(storage)] = (storage, storage.nbytes())
        return tensor

    def mark(*_: Any) -> None:
        marks.append(sum(size for _, size in saved.values()))

    handles = [layer.register_forward_hook(mark) for layer in decoder.layers]
    try:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            embedded = torch.empty(1, length, width, device="meta", dtype=dtype, requires_grad=True)
            decoder(
                inputs_embeds=embedded,
                attention_mask=torch.ones(1, 1, length, length, dtype=torch.bool, device="meta"),
                position_ids=torch.empty(1, length, dtype=torch.long, device="meta"),
                use_cache=False,
            )
        mark()
    finally:
        for handle in handles:
            handle.remove()
    layers = marks[: len(decoder.layers) + 1]
    return marks[-1], [after - before for before, after in pairwise(layers)]


class _FusedAttention(torch.autograd.Function):
    """Shapes of a fused kernel, and what it saves; no numbers."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = torch.empty_like(query)
        log_sum_exp = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, output, log_sum_exp)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise NotImplementedError("this attention only counts what it saves")


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any
) -> tuple[Tensor, None]:
    return _FusedAttention.apply(query, key, value).transpose(1, 2).contiguous(), None
