"""A tokenizer on disk: weights, config and image processor in one folder."""

from pathlib import Path

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
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}/config.json cannot be read: {_first_line(error)}") from error
    if not isinstance(config, SemHiTokConfig):
        raise UserError(
            f"{folder} holds a {config.model_type!r} model, not an image tokenizer: give the "
            f"`model` folder of a tokenizer phase."
        )
    try:
        return SemHiTokModel.from_pretrained(folder)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"The weights in {folder} do not fit its config.json (another K, M or width, or a "
            f"broken file): {_first_line(error)}"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
