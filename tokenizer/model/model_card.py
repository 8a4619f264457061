"""The model card (README.md) of a saved tokenizer: what its config and training say, no more."""

from huggingface_hub import ModelCardData
from torch import nn
from transformers import PreTrainedModel

from tokenizer.model.configuration_semhitok import SemHiTokConfig
from tokenizer.model.fingerprint import code_fingerprint

_ABILITY = {
    "both": "encodes images into codes and decodes codes into images",
    "encoder": "encodes images into codes; its decoder half is kept apart",
    "decoder": "decodes codes into images; its encoder half is kept apart",
}
_USE = {
    "both": "codes = model.encode(pixel_values)  # .semantic, .pixel, .flat\n"
    "images = model.decode(codes)  # in [-1, 1]",
    "encoder": "codes = model.encode(pixel_values)  # .semantic, .pixel, .flat",
    "decoder": "images = model.decode(codes)  # in [-1, 1]",
}


def model_card(model: PreTrainedModel) -> str:
    """Front matter and text of the README.md of a `SemHiTokModel`."""
    config = model.config
    teachers = [name for entry in config.training_history for name in entry.get("teachers", [])]
    front = ModelCardData(
        library_name="transformers",
        tags=["semhitok", "image-tokenizer"],
        # A name on the hub is author/name; a local folder would point nowhere.
        base_model=[name for name in teachers if name.count("/") == 1] or None,
    )
    sections = [
        f"---\n{front.to_yaml()}\n---",
        "# SemHiTok image tokenizer",
        f"Cuts an image into patches and gives each one token that carries a semantic code and a "
        f"pixel code ([arXiv 2503.06764](https://arxiv.org/abs/2503.06764)). This model "
        f"{_ABILITY[config.half]}.",
        "```python\nfrom tokenizer import SemHiTokModel  # registers the Auto classes too\n\n"
        f"model = SemHiTokModel.from_pretrained(FOLDER)\n{_USE[config.half]}\n```",
        "## Sizes",
        _table(["", ""], size_rows(config)),
        _table(["part", "parameters"], part_rows(model)),
        # It tells codes of different tokenizers apart.
        f"Fingerprint of the codes: `{code_fingerprint(model)}`",
        "## Training",
        _training(config),
        "## Evaluation",
        "None is recorded here.",
    ]
    return "\n\n".join(sections) + "\n"


def size_rows(config: SemHiTokConfig) -> list[list[str]]:
    """Names and values of the sizes of a model."""
    size, teacher = config.image_size, config.teacher_config.model_type
    return [
        ["native image", f"{size} × {size} pixels, patches of {config.patch_size}"],
        ["tokens per image", f"{config.num_image_positions:,}"],
        ["semantic codes K", f"{config.num_semantic_codes:,}"],
        ["pixel codes M of each", f"{config.num_pixel_codes:,}"],
        ["codes in all", f"{config.num_image_codes:,}"],
        ["code dimensions", f"{config.semantic_code_dim} + {config.pixel_code_dim}"],
        ["teacher", f"{teacher}, layer {config.teacher_layer}, {config.teacher_dtype}"],
    ]


def part_rows(model: nn.Module) -> list[list[str]]:
    """Name and number of parameters of each direct part, in order, and their sum."""
    numbers = {
        name.replace("_", " "): sum(parameter.numel() for parameter in part.parameters())
        for name, part in model.named_children()
    }
    numbers["total"] = sum(numbers.values())
    return [[name, f"{number:,}"] for name, number in numbers.items()]


def _training(config: SemHiTokConfig) -> str:
    if not config.training_history:
        return "Not recorded."
    rows = [
        [
            entry["phase"],
            f"{entry['num_steps']:,}",
            f"{entry['global_batch_size']:,}",
            "; ".join(f"{data['source']} ({data['licence']})" for data in entry["data"]),
            f"{entry['num_records']:,}",
            f"`{entry['data_fingerprint'][:16]}`",
        ]
        for entry in config.training_history
    ]
    return _table(["phase", "steps", "batch", "data", "images", "data fingerprint"], rows)


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
