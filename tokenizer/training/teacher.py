"""Load a frozen vision encoder by folder or hub name, and build a tokenizer around it."""

import difflib
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from runtime.errors import UserError, says
from tokenizer.model.configuration_semhitok import SemHiTokConfig
from tokenizer.model.modeling_semhitok import SemHiTokModel
from tokenizer.model.patch_features import patch_features

_NOT_SET_BY_HAND = {"teacher_config", "half", "code_fingerprint", "training_history"}


def load_teacher(name: str, dtype: str = "auto") -> PreTrainedModel:
    """The vision tower of a folder or hub name: SigLIP, SigLIP 2, CLIP, DINOv2, DINOv3 and so on.

    Args:
        name: a folder that `save_pretrained` or `train teacher` wrote, or a name on the hub.
        dtype: "float32", "bfloat16", "float16"; "auto" is what it was saved in.

    Returns:
        The encoder in eval mode, frozen.

    Raises:
        UserError: if nothing can be loaded there, or it has no patch features.
    """
    try:
        model = AutoModel.from_pretrained(name, dtype=dtype, use_safetensors=True)
    except (OSError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(
            f"No vision encoder can be loaded from {name!r}: give a folder written by "
            f"`train teacher` or by save_pretrained, or a hub name ({says(error)})."
        ) from error
    tower = getattr(model, "vision_model", model)
    sizes = [getattr(tower.config, name, None) for name in ("patch_size", "hidden_size")]
    if not all(isinstance(size, int) for size in sizes):
        raise UserError(
            f"{name!r} is a {type(tower).__name__}, which has no patch features: name a vision "
            f"transformer such as SigLIP, CLIP or DINOv2."
        )
    return tower.eval().requires_grad_(False)


def check_teacher(name: str, teacher: PreTrainedModel, layer: int) -> None:
    """Refuse a layer that is not there, and an encoder whose features are not one a patch.

    Windowed and pyramid encoders have a patch size too, so one blank image is passed through.
    """
    patch_size = teacher.config.patch_size
    side = getattr(teacher.config, "image_size", 2 * patch_size)
    try:
        patch_features(teacher, torch.zeros(1, 3, side, side, device=teacher.device), layer)
    except IndexError as error:
        raise UserError(
            f"The teacher {name!r} has {teacher.config.num_hidden_layers} layers and no layer "
            f"{layer}: choose -1, the normalised output, or -2, the layer before it, and so on."
        ) from error
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"The teacher {name!r} has no patch features: name a vision transformer such as "
            f"SigLIP, CLIP or DINOv2 ({says(error)})."
        ) from error


def normalisation(name: str) -> tuple[list[float], list[float]] | None:
    """Mean and deviation of the pixels in [0, 1] that an encoder wants, if its folder says."""
    try:
        settings, _ = BaseImageProcessor.get_image_processor_dict(name)
    except (OSError, ValueError):  # no preprocessor_config.json there
        return None
    mean, std = settings.get("image_mean"), settings.get("image_std")
    return (mean, std) if mean and std and settings.get("do_normalize", True) else None


def build_model(teacher_name: str, fields: dict[str, Any]) -> SemHiTokModel:
    """A new SemHiTok model around a frozen teacher.

    Args:
        teacher_name: see `load_teacher`.
        fields: of `SemHiTokConfig`, checked by name; `teacher_mean` and `teacher_std` are read
            from the teacher's folder where they are not given.
    """
    check_fields("model", fields, SemHiTokConfig)  # before what takes time
    teacher = load_teacher(teacher_name)
    config = model_config(teacher_name, teacher.config, fields)
    try:
        model = SemHiTokModel(config)
    except ValueError as error:  # heads that do not divide a width, a patch that cannot be halved
        raise UserError(f"The model section does not fit: {says(error)}") from error
    outcome = model.teacher.load_state_dict(teacher.state_dict(), strict=False)
    if outcome.missing_keys:
        raise UserError(
            f"The teacher {teacher_name!r} lacks the weights {', '.join(outcome.missing_keys[:3])}."
        )
    check_teacher(teacher_name, model.teacher.eval(), model.config.teacher_layer)
    return model


def model_config(
    teacher_name: str, vision_config: PreTrainedConfig, fields: dict[str, Any]
) -> SemHiTokConfig:
    """The config of a tokenizer around a teacher.

    Args:
        teacher_name: for its pixel normalisation, and for sentences.
        vision_config: of the teacher's vision tower.
        fields: see `build_model`.
    """
    check_fields("model", fields, SemHiTokConfig)
    teacher_config = AutoConfig.for_model(**vision_config.to_dict())
    if hasattr(teacher_config, "vision_use_head"):
        teacher_config.vision_use_head = False  # pooling is not read
    found = normalisation(teacher_name)
    if found is not None:
        fields = {"teacher_mean": found[0], "teacher_std": found[1]} | fields
    try:
        config = SemHiTokConfig(teacher_config=teacher_config, **fields)
    except Exception as error:  # strict dataclasses raise their own types
        raise UserError(f"The model section does not fit: {says(error)}") from error
    if teacher_config.patch_size != config.patch_size:
        raise UserError(
            f"The teacher {teacher_name!r} cuts patches of {teacher_config.patch_size} pixels and "
            f"model.patch_size is {config.patch_size}: set them equal."
        )
    num_layers = getattr(teacher_config, "num_hidden_layers", None)
    if num_layers is not None and not -num_layers - 1 <= config.teacher_layer <= num_layers:
        raise UserError(
            f"model.teacher_layer {config.teacher_layer} is not a layer of {teacher_name!r}, which "
            f"has {num_layers}: choose {-num_layers - 1} to {num_layers}."
        )
    return config


def trainable(model: torch.nn.Module, *names: str) -> list[torch.nn.Parameter]:
    """Freeze all but the named sub-modules; return their parameters."""
    model.requires_grad_(False)
    parameters: list[torch.nn.Parameter] = []
    for name in names:
        parameters += list(model.get_submodule(name).requires_grad_(True).parameters())
    return parameters


def refuse_flat(model: SemHiTokModel, phase: str) -> None:
    """A flat codebook is chosen by both vectors, so neither half can be trained alone."""
    if model.config.code_structure == "flat":
        raise UserError(
            f"A tokenizer with model.code_structure flat cannot be trained by the phase {phase}, "
            f"which knows one half of it: run `semhitok train joint`."
        )


def check_fields(section: str, fields: dict[str, Any], config_class: type) -> None:
    """Refuse fields that a transformers config does not have, with the nearest that it has."""
    known = set(config_class.__dataclass_fields__) - _NOT_SET_BY_HAND  # type: ignore[attr-defined]
    for field in fields:
        if field not in known:
            raise UserError(
                f"{section}.{field} is not a field of {config_class.__name__}: "
                f"{_nearest(field, known)}"
            )


def _nearest(word: str, known: set[str]) -> str:
    matches = difflib.get_close_matches(word, sorted(known), n=1)
    return f"did you mean {matches[0]}?" if matches else f"known are {', '.join(sorted(known))}."
