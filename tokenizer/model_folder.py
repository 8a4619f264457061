"""A tokenizer on disk: weights, config and image processor in one folder."""

from pathlib import Path

from safetensors import SafetensorError
from transformers import AutoConfig

from semhitok.errors import UserError
from tokenizer.configuration_semhitok import SemHiTokConfig
from tokenizer.image_processing_semhitok import SemHiTokImageProcessor
from tokenizer.modeling_semhitok import SemHiTokModel


def save_tokenizer(model: SemHiTokModel, folder: Path) -> None:
    """Write model and image processor, so that the folder says how to feed it."""
    model.save_pretrained(folder)
    image_processor(model.config).save_pretrained(folder)


def image_processor(config: SemHiTokConfig) -> SemHiTokImageProcessor:
    """The processor for a model's native size."""
    size = config.image_size
    return SemHiTokImageProcessor(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    )


def load_tokenizer(folder: Path | str) -> SemHiTokModel:
    """A saved SemHiTok model, with one sentence instead of a traceback where there is none."""
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{folder} holds no tokenizer (no config.json): give the `model` folder that a "
            f"training phase wrote, such as runs/quickstart/decoder/model."
        )
    try:
        config = AutoConfig.from_pretrained(folder)
    except Exception as error:  # strict dataclasses raise their own types, odd JSON a TypeError
        raise UserError(f"{folder}/config.json cannot be read: {one_line(error)}") from error
    if not isinstance(config, SemHiTokConfig):
        raise UserError(
            f"{folder} holds a {config.model_type!r} model, not an image tokenizer: give the "
            f"`model` folder of a tokenizer phase."
        )
    try:
        model, found = SemHiTokModel.from_pretrained(
            folder,
            use_safetensors=True,  # pickles are never read
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, by name
        )
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise UserError(
            f"The weights in {folder} do not fit its config.json (another K, M or width, or a "
            f"broken file): {one_line(error)}"
        ) from error
    # transformers only warns of these, and fills the gaps with random weights.
    misfits = [
        f"{name} is {tuple(is_)}, not {tuple(wanted)}"
        for name, is_, wanted in sorted(found["mismatched_keys"])
    ]
    misfits += [f"{name} is missing" for name in sorted(found["missing_keys"])]
    misfits += [f"{name} is unknown" for name in sorted(found["unexpected_keys"])]
    if misfits:
        raise UserError(
            f"The weights in {folder} do not fit its config.json (another K, M or width): "
            f"{misfits[0]}."
        )
    return model


def one_line(error: BaseException, limit: int = 200) -> str:
    """What an exception of a library says, as part of one sentence."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"
