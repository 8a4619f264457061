"""FLOPs of training on a sequence."""

from math import prod
from typing import Any

from mllm.model.modeling_unified import UnifiedModel
from mllm.phase.settings import PhaseSettings


def flops_per_sequence(
    model: UnifiedModel, settings: PhaseSettings, recompute: bool | None = None
) -> int:
    """FLOPs of a forward and a backward pass of one sequence (PaLM, arXiv 2204.02311, appendix B).

    For each token, six for each number of a trained matrix (two forward, four backward) and
    12·L·width of attention in each layer, counted dense; a frozen matrix takes no gradient, which
    is two of the six; activation checkpointing runs the layers once more. The larger head scores
    the token.

    Args:
        model: on any device, its frozen parts frozen.
        recompute: count what activation checkpointing computes again; by default if it is on.
    """
    text = model.config.text_config
    numbers = {True: 0, False: 0}
    for parameter in model.language_model.get_decoder().layers.parameters():
        shape = _whole_shape(parameter)
        if len(shape) > 1:
            numbers[parameter.requires_grad] += prod(shape)
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    heads = (model.image_head.rows.weight, model.get_output_embeddings().weight)
    head = heads[text.vocab_size >= model.image_head.rows.out_features]
    recompute = settings.gradient_checkpointing if recompute is None else recompute
    passes, length = 4 if recompute else 3, settings.max_seq_length
    matrices = 2 * (numbers[True] * passes + numbers[False] * (passes - 1))
    width = text.num_attention_heads * head_dim
    attention = 4 * text.num_hidden_layers * width * length * passes
    scores = 2 * prod(_whole_shape(head)) * (3 if head.requires_grad else 2)
    return length * (matrices + attention + scores)


def _whole_shape(parameter: Any) -> tuple[int, ...]:
    """The shape before ZeRO-3 cut the parameter up, or bitsandbytes packed it."""
    if hasattr(parameter, "ds_shape"):
        return tuple(parameter.ds_shape)
    packed = getattr(parameter, "quant_state", None)
    return tuple(parameter.shape if packed is None else packed.shape)
