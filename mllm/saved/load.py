"""Load a saved unified model, with one sentence instead of a traceback where there is none."""

from pathlib import Path
from typing import Any

import torch

from mllm.drawing.public_model import UnifiedForConditionalGeneration
from mllm.model.configuration_unified import UnifiedConfig
from mllm.model.processing_unified import UnifiedProcessor
from runtime.errors import UserError, says
from tokenizer.saved.model_folder import load_whole, read_config

_WRITTEN_BY = "`train mllm` wrote, such as runs/quickstart/mllm/model"


def load_model(folder: Path | str, **options: Any) -> UnifiedForConditionalGeneration:
    """The model of a folder written by `init-mllm` or `train mllm`; `options` are those of
    transformers' `from_pretrained`, such as `quantization_config`."""
    return load_whole(
        folder, UnifiedForConditionalGeneration, "a unified one", _WRITTEN_BY, **options
    )


def load_for_inference(
    folder: Path | str, device: str | None = None
) -> tuple[UnifiedForConditionalGeneration, UnifiedProcessor]:
    """A unified model in eval mode, with its processor, by default on a GPU where there is one."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return load_model(folder).to(device).eval(), load_processor(folder)


def load_config(folder: Path | str) -> UnifiedConfig:
    """The config of a model folder, without its weights."""
    return read_config(Path(folder), UnifiedConfig, "a unified one", _WRITTEN_BY)


def load_processor(folder: Path | str) -> UnifiedProcessor:
    """The processor of a model folder."""
    load_config(folder)
    try:
        return UnifiedProcessor.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{folder} has no processor (text tokenizer and image processor): copy those files of "
            f"the model folder as well ({says(error)})."
        ) from error
