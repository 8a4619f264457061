"""FLOPs of training on a sequence."""

from math import prod
from typing import Any

from mllm.model.modeling_unified import UnifiedModel
from mllm.phase.settings import PhaseSettings


def flops_per_sequence(
    model: UnifiedModel, settings: PhaseSettings, recompute: bool | None = None
) -> int:
    """FLOPs of one sequence, forward and backward; see `count_flops`.

    Args:
        model: on any device, its frozen parts frozen.
        settings: of the training phase.
        recompute: count what activation checkpointing computes again; by default if it is on.
    """
    text = model.config.text_config
    numbers = {True: 0, False: 0}
    for parameter in model.language_model.get_decoder().layers.parameters():
        shape = _whole_shape(parameter)
        if len(shape) > 1:
            numbers[parameter.requires_grad] += prod(shape)
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    text_head, image_head = model.get_output_embeddings(), model.image_head.rows
    larger = text_head if text.vocab_size >= image_head.out_features else image_head
    return count_flops(
        numbers[True],
        numbers[False],
        prod(_whole_shape(larger.weight)),
        text.num_hidden_layers,
        text.num_attention_heads * head_dim,
        settings.max_seq_length,
        settings.gradient_checkpointing if recompute is None else recompute,
        not larger.weight.requires_grad,
    )


def count_flops(
    num_trained: int,
    num_frozen: int,
    num_head_numbers: int,
    num_layers: int,
    attention_width: int,
    length: int,
    recompute: bool,
    frozen_head: bool = False,
) -> int:
    """FLOPs of a forward and a backward pass (PaLM, arXiv 2204.02311, appendix B).

    For each token, six for each number of a trained matrix (two forward, four backward) and
    12·L·width of attention in each layer, counted dense; a frozen matrix takes no gradient, which
    is two of the six; activation checkpointing runs the layers once more.

    Args:
        num_trained, num_frozen: numbers of the decoder layers' matrices.
        num_head_numbers: of the head that scores the token.
        num_layers: of the decoder.
        attention_width: heads × width of a head.
        length: L, tokens of the sequence.
        recompute: activation checkpointing.
        frozen_head: the head takes no gradient.
    """
    passes = 4 if recompute else 3
    matrices = 2 * (num_trained * passes + num_frozen * (passes - 1))
    attention = 4 * num_layers * attention_width * length * passes
    head = 2 * num_head_numbers * (3 - frozen_head)
    return length * (matrices + attention + head)


def _whole_shape(parameter: Any) -> tuple[int, ...]:
    """The shape before ZeRO-3 cut the parameter up, or bitsandbytes packed it."""
    if hasattr(parameter, "ds_shape"):
        return tuple(parameter.ds_shape)
    packed = getattr(parameter, "quant_state", None)
    return tuple(parameter.shape if packed is None else packed.shape)
