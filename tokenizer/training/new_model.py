"""New tokenizers: around a teacher, or with one part of a trained tokenizer made anew."""

import difflib
import json
from typing import Any

from torch import nn
from transformers import AutoConfig, PreTrainedConfig

from runtime.errors import UserError, says
from tokenizer.model.configuration_semhitok import SemHiTokConfig
from tokenizer.model.modeling_semhitok import SemHiTokModel
from tokenizer.saved.encoders import HALF, check_teacher, load_teacher, normalisation
from tokenizer.training.memory import build_checked

_NOT_SET_BY_HAND = {"teacher_config", "half", "code_fingerprint", "training_history"}
_SEMANTIC_PARTS = ("teacher.", "semantic_encoder.", "semantic_codebook.", "semantic_decoder.")
# Fields of the semantic half that no shape of a weight tells.
_SEMANTIC_FIELDS = (
    "image_size",
    "patch_size",
    "teacher_layer",
    "teacher_mean",
    "teacher_std",
    "teacher_dtype",
    "semantic_metric",
    "semantic_attention_heads",
)


def build_model(teacher_name: str, fields: dict[str, Any]) -> SemHiTokModel:
    """A new model around a frozen teacher.

    Args:
        teacher_name: see `load_teacher`.
        fields: of `SemHiTokConfig`, checked by name; `teacher_mean` and `teacher_std` are read
            from the teacher's folder where they are not given.

    Raises:
        UserError: if teacher and fields do not fit.
    """
    check_fields("model", fields, SemHiTokConfig)  # before what takes time
    teacher = load_teacher(teacher_name)
    config = model_config(teacher_name, teacher.config, fields)
    try:
        model = build_checked(lambda: SemHiTokModel(config))
    except ValueError as error:  # heads that do not divide a width, a patch that cannot be halved
        raise _misfit(error) from error
    loaded = model.teacher.load_state_dict(teacher.state_dict(), strict=False)
    if loaded.missing_keys:
        raise UserError(
            f"the teacher {teacher_name!r} lacks the weights {', '.join(loaded.missing_keys[:3])}"
        )
    check_teacher(teacher_name, model.teacher.eval(), config.teacher_layer)
    return model


def model_config(
    teacher_name: str, vision_config: PreTrainedConfig, fields: dict[str, Any]
) -> SemHiTokConfig:
    """The config of a tokenizer around a teacher with this vision tower; see `build_model`."""
    check_fields("model", fields, SemHiTokConfig)
    teacher_config = AutoConfig.for_model(**vision_config.to_dict())
    if hasattr(teacher_config, "vision_use_head"):
        teacher_config.vision_use_head = False  # the pooled output is not read
    mean, std = normalisation(teacher_name, default=HALF)
    read = {"teacher_config": teacher_config, "teacher_mean": mean, "teacher_std": std}
    config = _config(read | fields)
    if teacher_config.patch_size != config.patch_size:
        raise UserError(
            f"the teacher {teacher_name!r} cuts patches of {teacher_config.patch_size} pixels and "
            f"model.patch_size is {config.patch_size}; set them equal"
        )
    num_layers = getattr(teacher_config, "num_hidden_layers", None)
    if num_layers is not None and not -num_layers - 1 <= config.teacher_layer <= num_layers:
        raise UserError(
            f"model.teacher_layer {config.teacher_layer} is not a layer of {teacher_name!r}, which "
            f"has {num_layers}; choose {-num_layers - 1} to {num_layers}"
        )
    return config


def renew_pixel_half(model: SemHiTokModel, fields: dict[str, Any]) -> SemHiTokModel:
    """A model with other fields, whose semantic half is that of `model` and the rest untrained.

    A field of the semantic half is refused, and one that does not exist or fit.
    """
    before = json.loads(model.config.to_json_string(use_diff=False))  # lists, as the fields have
    changed = [name for name in fields if fields[name] != before.get(name)]
    renewed = _renew(model, fields, _SEMANTIC_PARTS)
    fixed = [name for name in changed if name in _SEMANTIC_FIELDS]
    if fixed or renewed is None:
        resized = [name for name in changed if name.startswith(("semantic_", "num_semantic_"))]
        raise UserError(
            f"the model section changes the semantic half, which is trained already "
            f"({', '.join(fixed or resized or fields)}); set that in the semantic phase and train "
            f"it again"
        )
    return renewed


def renew_enhance_decoder(model: SemHiTokModel, fields: dict[str, Any]) -> SemHiTokModel:
    """The same tokenizer with an untrained Enhance Decoder of other sizes; refuses other fields."""
    check_fields("model", fields, SemHiTokConfig)
    if others := [name for name in fields if not name.startswith("enhance_decoder_")]:
        raise UserError(
            f"the decoder phase trains the Enhance Decoder alone, so its model section cannot set "
            f"{', '.join(others)}; set that in the phase before and train it again"
        )
    kept = tuple(f"{name}." for name, _ in model.named_children() if name != "enhance_decoder")
    renewed = _renew(model, fields, kept)
    assert renewed is not None  # no field of the Enhance Decoder reaches another part
    return renewed


def train_only(model: nn.Module, *names: str) -> None:
    """Freeze all but the named sub-modules."""
    model.requires_grad_(False)
    for name in names:
        model.get_submodule(name).requires_grad_(True)


def refuse_flat(model: SemHiTokModel, phase: str) -> None:
    """Both vectors choose the code of a flat codebook, so neither half can be trained alone."""
    if model.config.code_structure == "flat":
        raise UserError(
            f"the phase {phase} trains one half of a tokenizer, which model.code_structure flat "
            f"does not allow; run `semhitok train joint`"
        )


def check_fields(section: str, fields: dict[str, Any], config_class: type) -> None:
    """Refuse fields that a transformers config does not have, with the nearest that it has."""
    known = set(config_class.__dataclass_fields__) - _NOT_SET_BY_HAND  # type: ignore[attr-defined]
    for field in fields:
        if field not in known:
            near = difflib.get_close_matches(field, sorted(known), n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known))}"
            raise UserError(f"{section}.{field} is not a field of {config_class.__name__}; {hint}")


def _renew(
    model: SemHiTokModel, fields: dict[str, Any], kept: tuple[str, ...]
) -> SemHiTokModel | None:
    """A model with other fields and the weights whose names begin so; None if those do not fit."""
    check_fields("model", fields, SemHiTokConfig)
    try:
        renewed = build_checked(lambda: SemHiTokModel(_config(model.config.to_dict() | fields)))
    except ValueError as error:
        raise _misfit(error) from error
    own = {k: v for k, v in model.state_dict().items() if k.startswith(kept)}
    wanted = {k: v for k, v in renewed.state_dict().items() if k.startswith(kept)}
    if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in wanted.items()}:
        return None
    renewed.load_state_dict(own, strict=False)
    return renewed


def _config(fields: dict[str, Any]) -> SemHiTokConfig:
    try:
        return SemHiTokConfig(**fields)
    except Exception as error:  # strict dataclasses raise their own types
        raise _misfit(error) from error


def _misfit(error: Exception) -> UserError:
    return UserError(f"the model section does not fit: {says(error)}")
