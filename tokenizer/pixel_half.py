"""Another pixel half for a trained semantic half: several M, or structures, on the same codes."""

from typing import Any

from semhitok.errors import UserError
from tokenizer.configuration_semhitok import SemHiTokConfig
from tokenizer.model_folder import one_line
from tokenizer.modeling_semhitok import SemHiTokModel
from tokenizer.teacher import check_fields

_KEPT = ("teacher.", "semantic_encoder.", "semantic_codebook.", "semantic_decoder.")
# Settings of the kept half that no shape of a weight tells.
_FIXED = (
    "image_size",
    "patch_size",
    "teacher_layer",
    "teacher_mean",
    "teacher_std",
    "teacher_dtype",
    "semantic_metric",
    "semantic_attention_heads",
)


def renew_pixel_half(model: SemHiTokModel, fields: dict[str, Any]) -> SemHiTokModel:
    """A model with other settings, whose semantic half is that of `model` and the rest untrained.

    Args:
        model: a trained tokenizer, left as it is.
        fields: of `SemHiTokConfig`, checked by name.

    Raises:
        UserError: if a field does not exist, does not fit, or belongs to the semantic half.
    """
    check_fields("model", fields, SemHiTokConfig)
    try:
        renewed = SemHiTokModel(SemHiTokConfig(**model.config.to_dict() | fields))
    except Exception as error:  # strict dataclasses raise their own types
        raise UserError(f"The model section does not fit: {one_line(error)}") from error
    kept = {k: v for k, v in model.state_dict().items() if k.startswith(_KEPT)}
    wanted = {k: v for k, v in renewed.state_dict().items() if k.startswith(_KEPT)}
    same_shapes = {k: v.shape for k, v in kept.items()} == {k: v.shape for k, v in wanted.items()}
    moved = [name for name in _FIXED if name in fields and fields[name] != _get(model, name)]
    if moved or not same_shapes:
        raise UserError(
            f"The model section changes the semantic half, which is trained already "
            f"({', '.join(moved or fields)}): set that in the semantic phase and train it anew."
        )
    renewed.load_state_dict(kept, strict=False)
    return renewed


def _get(model: SemHiTokModel, name: str) -> Any:
    value = getattr(model.config, name)
    return list(value) if isinstance(value, tuple) else value
