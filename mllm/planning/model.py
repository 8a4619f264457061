"""The model of a training config without its weights: built on the meta device from configs alone.

Nothing is downloaded and no memory is taken, so that a run can be sized before anything is rented.
"""

from pathlib import Path

import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from mllm.init.build import refuse_unknown_fields
from mllm.model.configuration_unified import UnifiedConfig
from mllm.model.modeling_unified import UnifiedModel
from mllm.phase.lora_phase import new_token_ids, put_lora
from mllm.phase.optimizer import MuonWithAdamW
from mllm.phase.parameter_groups import ParameterGroup, adamw_groups, freeze_parts
from mllm.phase.settings import InitConfig, MLLMPhaseConfig
from mllm.saved.load import load_processor
from runtime.errors import UserError, says
from tokenizer.model.configuration_semhitok import SemHiTokConfig

LORA_LAYERS, NEW_ROWS = "LoRA layers", "rows of new tokens"  # parts that only such a model has


def read_model_config(model: Path, init: InitConfig | None) -> UnifiedConfig:
    """The config of a saved model, or of the one that `init-mllm` would make.

    Args:
        model: folder; it decides where it is there.
        init: settings of `init-mllm`, where it is not.

    Raises:
        UserError: if neither says what the model is.
    """
    if (model / "config.json").is_file():
        try:
            config = AutoConfig.from_pretrained(model, trust_remote_code=False)
        except Exception as error:  # strict dataclasses raise their own types
            raise UserError(f"{model}/config.json cannot be read: {says(error)}") from error
        if not isinstance(config, UnifiedConfig):
            raise UserError(
                f"{model} holds a {config.model_type!r} model, not a unified one: give the folder "
                f"that init-mllm wrote."
            )
        return config
    if init is None:
        raise UserError(
            f"There is no model in {model} and no init_mllm.yaml beside the config: give the "
            f"settings of init-mllm with --init FILE."
        )
    text_config = _text_config(init)
    return UnifiedConfig(
        text_config=text_config.to_dict(),
        image_tokenizer_config=_tokenizer_config(init).to_dict(),
        image_input=init.image_input,
        image_head=init.image_head,
        image_positions=init.image_positions,
        z_loss_weight=init.z_loss_weight,
        tie_word_embeddings=text_config.tie_word_embeddings,
    )


def _text_config(init: InitConfig) -> PreTrainedConfig:
    fields = dict(init.text_config)
    if init.llm is not None and (Path(init.llm) / "config.json").is_file():
        return AutoConfig.from_pretrained(init.llm, trust_remote_code=False)
    model_type = fields.pop("model_type", None)
    if model_type not in CONFIG_MAPPING:
        raise UserError(
            f"The sizes of the language model {init.llm or ''} are not known here: write its "
            f"text_config, with a model_type such as qwen2 or llama, into the settings of "
            f"init-mllm."
        )
    if init.llm is None:
        fields.setdefault("vocab_size", init.vocab_size)
    try:
        config = CONFIG_MAPPING[model_type](**fields)
    except Exception as error:  # strict dataclasses raise their own types
        raise UserError(f"text_config does not fit: {says(error)}") from error
    refuse_unknown_fields(config, fields)
    config.dtype = torch.float32
    return config


def _tokenizer_config(init: InitConfig) -> SemHiTokConfig:
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
        raise UserError(f"No model can be built of these sizes: {says(error)}") from error


def planned_model(config: MLLMPhaseConfig, init: InitConfig | None) -> UnifiedModel:
    """The model that a phase trains, with shapes and no memory: LoRA layers where it asks for them.

    Args:
        config: of the phase.
        init: settings of `init-mllm`, for a model that is not there yet.

    Raises:
        UserError: as training would, for a model or LoRA layers that do not fit.
    """
    model = build_on_meta(read_model_config(config.model, init))
    if (config.model / "config.json").is_file() and config.lora is not None:
        token_ids = new_token_ids(load_processor(config.model).tokenizer)
    else:
        # The tokens around an image; and the two roles, where there was no chat template to write
        # them. A pre-trained tokenizer is not here to ask: instructed ones have a template.
        token_ids = list(range(2 if init is not None and init.llm is not None else 4))
    with torch.device("meta"):
        put_lora(model, config.lora, token_ids, config.model)
    return model


def in_four_bits(model: UnifiedModel, config: MLLMPhaseConfig) -> list[nn.Parameter]:
    """The matrices that QLoRA holds in 4 bits: those of the decoder's linear maps."""
    if config.lora is None or not config.lora.load_in_4bit:
        return []
    head = model.get_output_embeddings()
    return [
        module.get_parameter("weight")
        for name, module in model.language_model.named_modules()
        if isinstance(module, nn.Linear) and module is not head and "lora_" not in name
    ]


def parts(model: UnifiedModel) -> dict[str, int]:
    """Number of parameters by part; they sum to the whole. A head tied to its rows counts once."""
    language_model = model.language_model
    rows = language_model.get_input_embeddings().weight
    head = language_model.get_output_embeddings().weight
    head_size = 0 if head is rows else head.numel()
    lora = sum(p.numel() for name, p in language_model.named_parameters() if "lora_" in name)
    counts = {
        "language model layers": _count(language_model) - rows.numel() - head_size - lora,
        "text rows": rows.numel(),
        "text head": head_size,
    }
    if lora:
        counts |= {LORA_LAYERS: lora, NEW_ROWS: _count(model.new_rows)}
    return counts | {
        "image adapter": _count(model.adapter),
        "image head": _count(model.image_head),
        "image tokenizer (frozen)": _count(model.image_tokenizer),
    }


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def optimizer_groups(model: UnifiedModel, config: MLLMPhaseConfig) -> list[ParameterGroup]:
    """The groups that training makes, by the same code; parts that do not train are frozen."""
    freeze_parts(model, config.rates)
    if config.optimizer != "muon":
        return adamw_groups(model, config)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizer = MuonWithAdamW(
        model, model.language_model, 1.0, config.betas, config.weight_decay, config.rates
    )
    num_muon = len(optimizer.muon.param_groups)
    return [
        ParameterGroup(
            rule="muon" if number < num_muon else "adamw",
            decays=number < num_muon or group["params"][0].ndim > 1,
            names=[names[id(parameter)] for parameter in group["params"]],
            parameters=group["params"],
            rate=group["lr"],
        )
        for number, group in enumerate(optimizer.param_groups)
    ]
