"""The model of a training config without its weights: built on the meta device from configs alone.

Nothing is downloaded and no memory is taken, so that a run can be sized before anything is rented.
"""

from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedConfig

from mllm.init.build import unified_config
from mllm.init.language_model import make_text_config
from mllm.init.settings import InitSettings
from mllm.model.configuration_unified import UnifiedConfig
from mllm.model.modeling_unified import UnifiedModel
from mllm.phase.lora_phase import new_token_ids, put_lora
from mllm.phase.parameter_groups import ParameterGroup, freeze_parts, parameter_groups
from mllm.phase.settings import PhaseSettings
from mllm.saved.load import load_config, load_processor
from runtime.errors import UserError, says
from tokenizer.model.configuration_semhitok import SemHiTokConfig

LORA_LAYERS, NEW_TOKENS = "LoRA layers", "new tokens"  # parts of a model with LoRA alone


def read_model_config(model: Path, init: InitSettings | None) -> UnifiedConfig:
    """The config of a saved model, or, where there is none, of the one that `init-mllm` would make.

    Raises:
        UserError: if neither says what the model is.
    """
    if (model / "config.json").is_file():
        return load_config(model)
    if init is None:
        raise UserError(
            f"there is no model in {model} and no init_mllm.yaml beside the config; give the "
            f"settings of init-mllm with --init FILE"
        )
    return unified_config(init, _text_config(init), _tokenizer_config(init))


def _text_config(init: InitSettings) -> PreTrainedConfig:
    if init.llm is not None and (Path(init.llm) / "config.json").is_file():
        return AutoConfig.from_pretrained(init.llm, trust_remote_code=False)
    if init.llm is not None and not init.text_config:
        raise UserError(
            f"the sizes of the language model {init.llm} are not known here; write its "
            f"text_config, with a model_type such as qwen2 or llama, into the settings of init-mllm"
        )
    size = {} if init.llm is not None else {"vocab_size": init.vocab_size}
    config = make_text_config(init, **size)
    config.dtype = torch.float32
    return config


def _tokenizer_config(init: InitSettings) -> SemHiTokConfig:
    if (init.tokenizer / "config.json").is_file():
        return SemHiTokConfig.from_pretrained(init.tokenizer)
    try:
        return SemHiTokConfig(**init.planned_tokenizer)
    except Exception as error:  # strict dataclasses raise their own types
        raise UserError(f"planned_tokenizer does not fit: {says(error)}") from error


def build_on_meta(config: UnifiedConfig) -> UnifiedModel:
    """The model with shapes and no memory.

    Raises:
        UserError: if the sizes do not fit one another.
    """
    try:
        with torch.device("meta"):
            return UnifiedModel(config)
    except (ValueError, RuntimeError, TypeError, KeyError) as error:
        raise UserError(f"no model can be built of these sizes: {says(error)}") from error


def planned_model(settings: PhaseSettings, init: InitSettings | None) -> UnifiedModel:
    """The model that a phase trains, with shapes and no memory: LoRA layers where it asks for them.

    Raises:
        UserError: as training would, for a model or LoRA layers that do not fit.
    """
    model = build_on_meta(read_model_config(settings.model, init))
    if (settings.model / "config.json").is_file() and settings.lora is not None:
        token_ids = new_token_ids(load_processor(settings.model).tokenizer)
    else:
        # The tokens around an image; and the two roles, where there was no chat template to write
        # them. A pre-trained tokenizer is not here to ask: instructed ones have a template.
        token_ids = list(range(2 if init is not None and init.llm is not None else 4))
    with torch.device("meta"):
        put_lora(model, settings.lora, token_ids, settings.model)
    return model


def in_four_bits(model: UnifiedModel, settings: PhaseSettings) -> list[nn.Parameter]:
    """The matrices that QLoRA holds in 4 bits: those of the decoder's linear maps."""
    if not settings.in_4bit:
        return []
    head = model.get_output_embeddings()
    return [
        module.get_parameter("weight")
        for name, module in model.language_model.named_modules()
        if isinstance(module, nn.Linear) and module is not head and "lora_" not in name
    ]


def parts(model: UnifiedModel) -> dict[str, int]:
    """Number of parameters by part; they sum to the whole. A tied lm_head counts once."""
    language_model = model.language_model
    embedding = language_model.get_input_embeddings().weight
    head = language_model.get_output_embeddings().weight
    head_size = 0 if head is embedding else head.numel()
    lora = sum(p.numel() for name, p in language_model.named_parameters() if "lora_" in name)
    counts = {
        "language model layers": _count(language_model) - embedding.numel() - head_size - lora,
        "embed_tokens": embedding.numel(),
        "lm_head": head_size,
    }
    if lora:
        counts |= {LORA_LAYERS: lora, NEW_TOKENS: _count(model.new_rows)}
    return counts | {
        "image adapter": _count(model.adapter),
        "image head": _count(model.image_head),
        "image tokenizer (frozen)": _count(model.image_tokenizer),
    }


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def optimizer_groups(model: UnifiedModel, settings: PhaseSettings) -> list[ParameterGroup]:
    """The groups that training makes, by the same code; parts that do not train are frozen."""
    freeze_parts(model, settings)
    return parameter_groups(model, settings)
