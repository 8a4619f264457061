"""Initial weights that are not random: of patch embeddings, pixel encoders and decoders."""

import itertools
from typing import Any

import numpy as np
import torch
from scipy.fft import dct
from torch import Tensor, nn

from runtime.errors import UserError
from tokenizer.model.modeling_semhitok import SemHiTokModel
from tokenizer.model.pixel_networks import CodeDecoder


@torch.no_grad()
def start_from_cosines(weight: nn.Parameter) -> None:
    """Fill a patch embedding with the lowest frequencies of the discrete cosine transform.

    Args:
        weight: (D, 3, p, p); filter r sees one colour channel at one pair of frequencies.
    """
    patch_size = weight.shape[-1]
    basis = torch.from_numpy(dct(np.eye(patch_size), norm="ortho", axis=0)).to(weight.dtype)
    sides = range(patch_size)
    frequencies = sorted(itertools.product(sides, sides, range(3)), key=lambda f: f[0] + f[1])
    nn.init.zeros_(weight)
    for row, (u, v, channel) in zip(weight, frequencies, strict=False):
        row[channel] = torch.outer(basis[u], basis[v])


@torch.no_grad()
def grow_decoder(plain: nn.Module, deeper: nn.Module) -> None:
    """Start the deeper decoder as the same function as the plain one.

    Shared layers are copied; the other blocks start by adding nothing to the residual stream.
    Neither may be convolutional, or of another width, nor the deeper one have fewer layers.
    """
    if not (isinstance(plain, CodeDecoder) and isinstance(deeper, CodeDecoder)):
        raise UserError(
            "only an Enhance Decoder of kind 'vit' can start from a plain one of that kind; set "
            "both kinds to 'vit', or start_from_decoder to false"
        )
    shared, own = plain.state_dict(), deeper.state_dict()
    if misfits := [k for k, v in shared.items() if k not in own or own[k].shape != v.shape]:
        raise UserError(
            f"the Enhance Decoder cannot start from the plain decoder, whose {misfits[0]} has "
            f"another shape; give both one width, or set start_from_decoder to false"
        )
    deeper.load_state_dict({**own, **shared})
    for block in deeper.trunk.blocks.layers[len(plain.trunk.blocks.layers) :]:
        for last in (block.self_attn.out_proj, block.mlp.fc2):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)


@torch.no_grad()
def start_from_teacher(model: SemHiTokModel) -> None:
    """Copy patch embedding, positions and the first layers of the teacher into the pixel encoder.

    With as many layers as a SigLIP teacher has, the encoder below its head is then the teacher;
    with fewer, its first layers, where the pixels still are (Rosetta reads them at layers 0 to 2).

    Raises:
        UserError: if the pixel encoder is not a `vit` with a `patch` stem, or the teacher's layers
            are of another kind or size.
    """
    config, teacher = model.config, model.config.teacher_config
    tower: Any = getattr(model.teacher, "vision_model", model.teacher)
    embeddings: Any = getattr(tower, "embeddings", None)
    if not (
        isinstance(getattr(embeddings, "patch_embedding", None), nn.Conv2d)
        and hasattr(embeddings, "position_embedding")
        and hasattr(tower, "encoder")
        and hasattr(tower, "post_layernorm")
    ):
        raise _cannot_start(
            f"the layers of a {type(model.teacher).__name__} differ from the pixel encoder's",
            "take a SigLIP or CLIP teacher",
        )
    if teacher.intermediate_size != 4 * teacher.hidden_size:  # what our layers have
        raise _cannot_start(
            f"its layers are {teacher.intermediate_size} wide inside, not 4 times "
            f"{teacher.hidden_size}",
            "take another teacher",
        )
    for name, needed in {
        "pixel_encoder_kind": "vit",
        "pixel_stem": "patch",
        "pixel_hidden_size": teacher.hidden_size,
        "pixel_attention_heads": teacher.num_attention_heads,
    }.items():
        if getattr(config, name) != needed:
            raise _cannot_start(f"{name} is {getattr(config, name)!r}", f"set it to {needed!r}")
    trunk: Any = model.pixel_encoder.trunk
    own, given = trunk.blocks.layers, tower.encoder.layers
    if len(own) > len(given):
        raise _cannot_start(
            f"pixel_encoder_layers is {len(own)}, and the teacher has {len(given)} layers",
            "lower it",
        )
    _copy_embedding(model, embeddings.patch_embedding)
    _copy_positions(trunk.positions.table, embeddings.position_embedding.weight)
    for layer, teacher_layer in zip(own, given, strict=False):
        layer.load_state_dict(teacher_layer.state_dict())
    if len(own) == len(given):
        trunk.norm.load_state_dict(tower.post_layernorm.state_dict())


def _cannot_start(reason: str, hint: str) -> UserError:
    return UserError(
        f"the pixel encoder cannot start from this teacher: {reason}; {hint}, or set "
        f"start_from_teacher to false"
    )


def _copy_embedding(model: SemHiTokModel, given: nn.Conv2d) -> None:
    """Copy the teacher's patch embedding, its pixel normalisation folded into the weights."""
    stem = model.pixel_encoder.get_submodule("stem.project")
    weight, scale = given.weight.float(), model.teacher_scale.float()
    bias = (weight * model.teacher_shift).sum((1, 2, 3))
    if given.bias is not None:
        bias = bias + given.bias
    embed = model.pixel_encoder.get_submodule("trunk.embed")
    stem.load_state_dict({"weight": weight * scale, "bias": bias})
    embed.load_state_dict({"weight": torch.eye(len(weight)), "bias": torch.zeros(len(weight))})


def _copy_positions(table: nn.Parameter, given: Tensor) -> None:
    """Copy (n, D) positions of a square grid, after those of a class token, as (1, D, g, g)."""
    side = int(len(given) ** 0.5)
    grid = given[len(given) - side**2 :].float().T.unflatten(1, (side, side)).unsqueeze(0)
    if table.shape[-1] != side:
        grid = nn.functional.interpolate(
            grid, size=table.shape[-2:], mode="bicubic", align_corners=False, antialias=True
        )
    table.copy_(grid)
