"""Frozen vision encoders by folder or hub name: teachers, perceptual networks, discriminators."""

from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModel, PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from runtime.errors import UserError, says
from tokenizer.model.patch_features import patch_features
from tokenizer.saved.model_folder import refuse_nonfinite

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and deviation of each colour channel, in [0, 1] units."""

IMAGENET: Normalisation = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF: Normalisation = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def load_encoder(name: str, dtype: Any = "auto") -> PreTrainedModel:
    """The vision tower of a folder or hub name: SigLIP, SigLIP 2, CLIP, DINOv2, ConvNeXt and so on.

    Args:
        name: a folder that `save_pretrained` or `train teacher` wrote, or a name on the hub.
        dtype: a torch dtype or its name; "auto" is what it was saved in.

    Returns:
        The encoder in eval mode, frozen; a `UserError` if nothing can be loaded.
    """
    try:
        model = AutoModel.from_pretrained(name, dtype=dtype, use_safetensors=True)
    except (OSError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(
            f"no vision encoder can be loaded from {name!r} ({says(error)}); give a folder written "
            f"by `train teacher` or by save_pretrained, or a name on the hub"
        ) from error
    encoder = getattr(model, "vision_model", model).eval().requires_grad_(False)
    refuse_nonfinite(encoder, repr(name))
    return encoder


def load_teacher(name: str, dtype: str = "auto") -> PreTrainedModel:
    """An encoder with patches, see `load_encoder`; a `UserError` if it cuts none."""
    teacher = load_encoder(name, dtype)
    sizes = [getattr(teacher.config, size, None) for size in ("patch_size", "hidden_size")]
    if not all(isinstance(size, int) for size in sizes):
        raise _no_patches(name, f"it is a {type(teacher).__name__}")
    return teacher


def check_teacher(name: str, teacher: PreTrainedModel, layer: int) -> None:
    """Refuse a layer that does not exist, and an encoder without one feature for each patch.

    Windowed and pyramid encoders have a patch size too, so one blank image is passed through.
    """
    patch_size = teacher.config.patch_size
    side = getattr(teacher.config, "image_size", 2 * patch_size)
    try:
        patch_features(teacher, torch.zeros(1, 3, side, side, device=teacher.device), layer)
    except IndexError as error:
        raise UserError(
            f"the teacher {name!r} has {teacher.config.num_hidden_layers} layers and no layer "
            f"{layer}; choose -1 for the normalised output, -2 for the layer before it, and so on"
        ) from error
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise _no_patches(name, says(error)) from error


def normalisation(name: str, default: Normalisation) -> Normalisation:
    """Mean and deviation of the pixels that an encoder was trained on, if its folder says so."""
    try:
        values, _ = BaseImageProcessor.get_image_processor_dict(name)
    except (OSError, ValueError):  # no preprocessor_config.json there
        return default
    mean, std = values.get("image_mean"), values.get("image_std")
    if not (mean and std and values.get("do_normalize", True)):
        return default
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise UserError(
            f"image_mean and image_std of {name!r} must be three numbers each, those of image_std "
            f"above 0, not {mean} and {std}; correct its preprocessor_config.json"
        )
    return mean, std


def _no_patches(name: str, reason: str) -> UserError:
    return UserError(
        f"the teacher {name!r} has no patch features ({reason}); name a vision transformer such as "
        f"SigLIP, CLIP or DINOv2"
    )
