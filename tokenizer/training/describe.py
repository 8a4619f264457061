"""The sizes of a tokenizer: parameters by part, codes, tokens per image.

    semhitok describe --tokenizer DIR
    semhitok describe --config configs/paper/256/semantic.yaml

Nothing is allocated: the model is built on PyTorch's meta device, around the teacher's config.
"""

import argparse
from pathlib import Path

import torch
from transformers import AutoConfig, PreTrainedConfig

from runtime.config import load_config
from runtime.errors import UserError, says
from tokenizer.model.configuration_semhitok import SemHiTokConfig
from tokenizer.model.model_card import parameters_by_part
from tokenizer.model.modeling_semhitok import SemHiTokModel
from tokenizer.saved.model_folder import tokenizer_config
from tokenizer.training.settings import SemanticPhaseConfig
from tokenizer.training.teacher import model_config


def model_of_config(path: Path | str, overrides: list[str]) -> SemHiTokModel:
    """The model of a config of the semantic phase, on the meta device."""
    config = load_config(SemanticPhaseConfig, path, overrides)
    return _on_meta(model_config(config.teacher, teacher_config(config.teacher), config.model))


def teacher_config(name: str) -> PreTrainedConfig:
    """The config of a teacher's vision tower, without its weights."""
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"No config of a vision encoder can be read from {name!r}: give a folder or a hub name "
            f"as teacher=NAME ({says(error)})."
        ) from error
    return getattr(config, "vision_config", config)


def description(model: SemHiTokModel) -> str:
    """The table that the command prints."""
    config, parts = model.config, parameters_by_part(model)
    rows = [*parts.items(), ("total", sum(parts.values()))]
    lines = [f"{'part':<24}{'parameters':>15}"]
    lines += [f"{name:<24}{number:>15,}" for name, number in rows]
    lines += [
        "",
        f"codes            {config.num_semantic_codes:,} × {config.num_pixel_codes:,} = "
        f"{config.num_image_codes:,}, of {config.semantic_code_dim} + {config.pixel_code_dim} "
        f"dimensions",
        f"tokens an image  {config.grid_size} × {config.grid_size} = "
        f"{config.num_image_positions:,}, at {config.image_size} × {config.image_size} pixels in "
        f"patches of {config.patch_size}",
    ]
    return "\n".join(lines)


def _on_meta(config: SemHiTokConfig) -> SemHiTokModel:
    try:
        with torch.device("meta"):
            return SemHiTokModel(config)
    except ValueError as error:  # heads that do not divide a width, a patch that cannot be halved
        raise UserError(f"The model section does not fit: {says(error)}") from error


def command(args: argparse.Namespace) -> None:
    """`semhitok describe`."""
    if args.tokenizer is not None:
        if args.overrides:
            raise UserError("settings such as key=value go with --config, not with --tokenizer")
        model = _on_meta(tokenizer_config(args.tokenizer))
    else:
        model = model_of_config(args.config, args.overrides)
    print(description(model))
