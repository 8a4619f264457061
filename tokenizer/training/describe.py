"""The sizes of a tokenizer: parameters by part, codes, tokens per image.

    semhitok describe --tokenizer DIR
    semhitok describe --config configs/paper/256/semantic.yaml

Nothing is allocated: the model is built on PyTorch's meta device, around the teacher's config.
"""

from pathlib import Path

import torch
from transformers import AutoConfig, PreTrainedConfig

from runtime.errors import UserError, says
from runtime.settings import load_settings
from runtime.value_types import anywhere
from tokenizer.model.configuration_semhitok import SemHiTokConfig
from tokenizer.model.model_card import part_rows, size_rows
from tokenizer.model.modeling_semhitok import SemHiTokModel
from tokenizer.saved.model_folder import tokenizer_config
from tokenizer.training.new_model import model_config
from tokenizer.training.settings import DescribeSettings, SemanticPhaseSettings


def describe(settings: DescribeSettings) -> None:
    """Print the table of a saved tokenizer, or of one that a config would train."""
    if settings.tokenizer is not None:
        model = _on_meta(tokenizer_config(settings.tokenizer))
    else:
        assert settings.config is not None
        model = model_of_config(settings.config, settings.overrides)
    print(description(model))


def model_of_config(path: Path, overrides: list[str]) -> SemHiTokModel:
    """The model that a YAML file of the semantic phase would train, on the meta device."""
    with anywhere():  # its data need not exist
        settings = load_settings(SemanticPhaseSettings, path, overrides)
    teacher = teacher_config(settings.teacher)
    return _on_meta(model_config(settings.teacher, teacher, settings.model))


def teacher_config(name: str) -> PreTrainedConfig:
    """The config of a teacher's vision tower, without its weights."""
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"no config of a vision encoder can be read from {name!r} ({says(error)}); give a "
            f"folder or a name on the hub as teacher=NAME"
        ) from error
    return getattr(config, "vision_config", config)


def description(model: SemHiTokModel) -> str:
    """The table that the command prints."""
    lines = [f"{name:<24}{number:>15}" for name, number in part_rows(model)]
    return "\n".join(
        [*lines, "", *(f"{name:<24}{value}" for name, value in size_rows(model.config))]
    )


def _on_meta(config: SemHiTokConfig) -> SemHiTokModel:
    try:
        with torch.device("meta"):
            return SemHiTokModel(config)
    except ValueError as error:  # heads that do not divide a width, a patch that cannot be halved
        raise UserError(f"the model section does not fit: {says(error)}") from error
