"""Another untrained part for a trained tokenizer: several M, structures or decoders to compare."""

from typing import Any

from runtime.errors import UserError, says
from tokenizer.model.configuration_semhitok import SemHiTokConfig
from tokenizer.model.modeling_semhitok import SemHiTokModel
from tokenizer.training.teacher import check_fields

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
    moved = [name for name in _FIXED if name in fields and fields[name] != _get(model, name)]
    renewed = _renew(model, fields, _KEPT)
    if moved or renewed is None:
        resized = [
            name
            for name in fields
            if name.startswith(("semantic_", "num_semantic_")) and fields[name] != _get(model, name)
        ]
        raise UserError(
            f"The model section changes the semantic half, which is trained already "
            f"({', '.join(moved or resized or fields)}): set that in the semantic phase and train "
            f"it anew."
        )
    return renewed


def renew_enhance_decoder(model: SemHiTokModel, fields: dict[str, Any]) -> SemHiTokModel:
    """The same tokenizer with an untrained Enhance Decoder of other sizes.

    Args:
        model: a trained tokenizer, left as it is.
        fields: of `SemHiTokConfig` whose names begin with `enhance_decoder`.

    Raises:
        UserError: if a field does not exist, does not fit, or is none of the Enhance Decoder's.
    """
    check_fields("model", fields, SemHiTokConfig)
    others = [name for name in fields if not name.startswith("enhance_decoder_")]
    if others:
        raise UserError(
            f"The decoder phase trains the Enhance Decoder alone, so its model section cannot set "
            f"{', '.join(others)}: set that in the phase before and train it anew."
        )
    kept = tuple(f"{name}." for name, _ in model.named_children() if name != "enhance_decoder")
    renewed = _renew(model, fields, kept)
    assert renewed is not None  # no field of the Enhance Decoder reaches another part
    return renewed


def _renew(
    model: SemHiTokModel, fields: dict[str, Any], kept: tuple[str, ...]
) -> SemHiTokModel | None:
    """A model with other settings and the weights whose names begin so; None if those do not fit.

    Raises:
        UserError: if the fields do not make a config.
    """
    check_fields("model", fields, SemHiTokConfig)
    try:
        renewed = SemHiTokModel(SemHiTokConfig(**model.config.to_dict() | fields))
    except Exception as error:  # strict dataclasses raise their own types
        raise UserError(f"The model section does not fit: {says(error)}") from error
    own = {k: v for k, v in model.state_dict().items() if k.startswith(kept)}
    wanted = {k: v for k, v in renewed.state_dict().items() if k.startswith(kept)}
    if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in wanted.items()}:
        return None
    renewed.load_state_dict(own, strict=False)
    return renewed


def _get(model: SemHiTokModel, name: str) -> Any:
    value = getattr(model.config, name)
    return list(value) if isinstance(value, tuple) else value
