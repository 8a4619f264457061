"""Tokenizers of random weights at the sizes of real ones: what weights hold costs no time."""

from pathlib import Path
from typing import Any

from runtime.value_types import shipped_configs
from runtime.yaml_values import read_values
from tokenizer.model.configuration_semhitok import SemHiTokConfig
from tokenizer.model.modeling_semhitok import SemHiTokModel
from tokenizer.saved.model_folder import save_tokenizer

SIZES = ("quickstart", "paper/256", "paper/384")


def save_random_tokenizer(size: str, folder: Path) -> Path:
    """Save an untrained tokenizer.

    Args:
        size: folder of configs/ whose tokenizer is built.
        folder: to write.
    """
    configs = shipped_configs() / size
    fields = read_values(configs / "semantic.yaml")["model"]
    teacher: dict[str, Any] = {"model_type": "siglip_vision_model", "vision_use_head": False}
    if (configs / "teacher.yaml").is_file():
        teacher |= read_values(configs / "teacher.yaml")["vision"]
    else:  # ViT-L, which the paper sizes are made for
        teacher |= {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}
        teacher |= {"num_attention_heads": 16}
        teacher |= {name: fields[name] for name in ("image_size", "patch_size")}
    save_tokenizer(SemHiTokModel(SemHiTokConfig(teacher_config=teacher, **fields)), folder)
    return folder
