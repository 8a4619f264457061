"""Start the pixel encoder from the teacher's weights, where the shapes allow."""

from typing import Any

import torch
from torch import Tensor, nn

from runtime.errors import UserError
from tokenizer.model.modeling_semhitok import SemHiTokModel
from tokenizer.model.pixel_networks import PixelEncoder


@torch.no_grad()
def start_from_teacher(model: SemHiTokModel) -> None:
    """Copy patch embedding, positions and the first layers of the teacher into the pixel encoder.

    With as many layers as a SigLIP teacher has, the encoder below its head is then the teacher;
    with fewer, its first layers, where the pixels still are (Rosetta reads them at layers 0 to 2).

    Raises:
        UserError: if the pixel encoder is no `vit` with a `patch` stem, or the teacher's layers are
            built otherwise or have other sizes.
    """
    encoder = model.pixel_encoder
    if not isinstance(encoder, PixelEncoder) or model.config.pixel_stem != "patch":
        raise UserError(
            "Only a pixel encoder of pixel_encoder_kind 'vit' with pixel_stem 'patch' can start "
            "from the teacher: set those, or start_from_teacher to false."
        )
    parts = _parts_of(model.teacher)
    _check_sizes(model)
    blocks = encoder.trunk.blocks.layers
    if len(blocks) > len(parts["layers"]):
        raise UserError(
            f"The pixel encoder has {len(blocks)} layers and the teacher {len(parts['layers'])} to "
            f"start it from: lower pixel_encoder_layers, or set start_from_teacher to false."
        )
    _copy_embedding(model, parts["patch_embedding"])
    _copy_positions(encoder.trunk.positions.table, parts["positions"])
    for own, given in zip(blocks, parts["layers"], strict=False):
        own.load_state_dict(given.state_dict())
    if len(blocks) == len(parts["layers"]):
        encoder.trunk.norm.load_state_dict(parts["norm"].state_dict())


def _parts_of(teacher: nn.Module) -> dict[str, Any]:
    """The pieces of a SigLIP or CLIP tower; others name and build theirs in ways of their own."""
    tower: Any = getattr(teacher, "vision_model", teacher)
    embeddings = getattr(tower, "embeddings", None)
    if not (
        isinstance(getattr(embeddings, "patch_embedding", None), nn.Conv2d)
        and hasattr(embeddings, "position_embedding")
        and hasattr(tower, "encoder")
        and hasattr(tower, "post_layernorm")
    ):
        raise UserError(
            f"The pixel encoder cannot start from a {type(teacher).__name__}, whose layers are "
            f"built otherwise: take a SigLIP or CLIP teacher, or set start_from_teacher to false."
        )
    return {
        "patch_embedding": tower.embeddings.patch_embedding,
        "positions": tower.embeddings.position_embedding.weight,
        "layers": tower.encoder.layers,
        "norm": tower.post_layernorm,
    }


def _check_sizes(model: SemHiTokModel) -> None:
    """Widths and heads must be the teacher's."""
    config, teacher = model.config, model.config.teacher_config
    sizes = {
        "pixel_hidden_size": teacher.hidden_size,
        "pixel_attention_heads": teacher.num_attention_heads,
    }
    for name, given in sizes.items():
        if getattr(config, name) != given:
            raise UserError(
                f"The pixel encoder cannot start from this teacher with {name} "
                f"{getattr(config, name)}: set it to {given}, or start_from_teacher to false."
            )
    if teacher.intermediate_size != 4 * teacher.hidden_size:  # what our layers have
        raise UserError(
            f"The pixel encoder cannot start from a teacher whose layers are "
            f"{teacher.intermediate_size} wide inside, not 4 times {teacher.hidden_size}: take "
            f"another teacher, or set start_from_teacher to false."
        )


def _copy_embedding(model: SemHiTokModel, given: nn.Conv2d) -> None:
    """The teacher's patch embedding for images in [-1, 1]: its normalisation is folded in."""
    stem = model.pixel_encoder.get_submodule("stem.project")
    weight, scale = given.weight.float(), model.teacher_scale.float()
    bias = (weight * model.teacher_shift).sum((1, 2, 3))
    if given.bias is not None:
        bias = bias + given.bias
    embed = model.pixel_encoder.get_submodule("trunk.embed")
    stem.load_state_dict({"weight": weight * scale, "bias": bias})
    embed.load_state_dict({"weight": torch.eye(len(weight)), "bias": torch.zeros(len(weight))})


def _copy_positions(table: nn.Parameter, given: Tensor) -> None:
    """(n, D) positions of a square grid, a class token's before them, as (1, D, g, g)."""
    side = int(len(given) ** 0.5)
    grid = given[len(given) - side**2 :].float().T.unflatten(1, (side, side)).unsqueeze(0)
    if table.shape[-1] != side:
        grid = nn.functional.interpolate(
            grid, size=table.shape[-2:], mode="bicubic", align_corners=False, antialias=True
        )
    table.copy_(grid)
