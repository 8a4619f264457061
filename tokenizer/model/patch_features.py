"""Patch features of any transformers vision encoder, from images of any size its patch divides.

Shapes: B batch, N = h·w image positions (row-major), D the encoder's width, p its patch size.
"""

from inspect import signature
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel


@torch.no_grad()
def patch_features(encoder: PreTrainedModel, pixel_values: Tensor, layer: int = -1) -> Tensor:
    """One feature for each patch, without class and register tokens.

    Args:
        encoder: a frozen vision transformer, in any floating dtype.
        pixel_values: (B, 3, H, W) in the encoder's own normalisation; p divides H and W.
        layer: which hidden state; -1 is the encoder's normalised output, -2 the last but one
            block's, 0 the patch embeddings.

    Returns:
        (B, N, D) in the dtype of `pixel_values`, computed in the encoder's own, under autocast too.
        Not made in `torch.inference_mode`, whose tensors the gradients of the layers above could
        not keep.

    Raises:
        ValueError: if the encoder does not give one feature for each of its patches.
    """
    config = encoder.config
    rows, columns = (size // config.patch_size for size in pixel_values.shape[-2:])
    inputs: dict[str, Any] = {"pixel_values": pixel_values.to(encoder.dtype)}
    parameters = signature(encoder.forward).parameters
    if "spatial_shapes" in parameters:  # SigLIP 2 NaFlex takes patches, already cut
        inputs |= _cut_patches(inputs["pixel_values"], config.patch_size, rows, columns)
    elif "interpolate_pos_encoding" in parameters:
        # SigLIP and CLIP fit their positions to another size only when told to; DINO always does.
        native = getattr(config, "image_size", None)
        inputs["interpolate_pos_encoding"] = tuple(pixel_values.shape[-2:]) != (native, native)
    # Autocast would train on features that extraction, which has none, never sees, and stops at
    # half-precision types other than its own.
    with torch.autocast(pixel_values.device.type, enabled=False):
        outputs = encoder(**inputs, output_hidden_states=layer != -1)
    features = outputs.last_hidden_state if layer == -1 else outputs.hidden_states[layer]
    if features.ndim != 3 or features.shape[1] < rows * columns:
        raise ValueError(
            f"A {type(encoder).__name__} gives no feature for each of its {rows}×{columns} "
            f"patches, but {tuple(features.shape[1:])}."
        )
    num_extra = features.shape[1] - rows * columns  # class and register tokens come first
    return features[:, num_extra:].to(pixel_values.dtype)


def _cut_patches(images: Tensor, patch_size: int, rows: int, columns: int) -> dict[str, Tensor]:
    """(B, 3, H, W) as the (B, N, p·p·3) rows that NaFlex encoders take, and their grid."""
    patches = images.unflatten(3, (columns, patch_size)).unflatten(2, (rows, patch_size))
    patches = patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
    return {
        "pixel_values": patches,
        "pixel_attention_mask": patches.new_ones(patches.shape[:2], dtype=torch.int64),
        "spatial_shapes": torch.tensor([[rows, columns]] * len(images), device=images.device),
    }
