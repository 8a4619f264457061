"""Load a saved unified model, with one sentence instead of a traceback where there is none."""

from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig

from mllm.configuration_unified import UnifiedConfig
from mllm.modeling_unified import UnifiedForConditionalGeneration
from mllm.processing_unified import UnifiedProcessor
from semhitok.errors import UserError
from tokenizer.model_folder import one_line


def load_model(folder: Path | str) -> UnifiedForConditionalGeneration:
    """The model of a folder written by `init-mllm` or `train mllm`."""
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{folder} holds no model (no config.json): give the `model` folder that `train mllm` "
            f"wrote, such as runs/quickstart/mllm/model."
        )
    try:
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, StrictDataclassError) as error:
        raise UserError(f"{folder}/config.json cannot be read: {one_line(error)}") from error
    if not isinstance(config, UnifiedConfig):
        raise UserError(
            f"{folder} holds a {config.model_type!r} model, not a unified one: give the `model` "
            f"folder that `train mllm` wrote, such as runs/quickstart/mllm/model."
        )
    try:
        model, found = UnifiedForConditionalGeneration.from_pretrained(
            folder, output_loading_info=True, use_safetensors=True
        )
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise UserError(
            f"The weights in {folder} do not fit its config.json (another shape, or a broken "
            f"file): {one_line(error)}"
        ) from error
    # transformers only warns, and fills the gaps with random weights.
    if found["missing_keys"]:
        raise UserError(
            f"The weights in {folder} do not fit its config.json: {min(found['missing_keys'])} is "
            f"missing."
        )
    return model


def load_processor(folder: Path | str) -> UnifiedProcessor:
    """The processor of a model folder."""
    try:
        return UnifiedProcessor.from_pretrained(folder)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{folder} has no processor (text tokenizer and image processor): copy those files of "
            f"the model folder as well ({one_line(error)})."
        ) from error
