"""The language model of a unified one: from nothing, or pre-trained, with tokens for images."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from data_pipelines.answers import most_frequent_answer
from data_pipelines.loading.dataset import PreparedDataset
from data_pipelines.text_tokenizer import train_text_tokenizer
from mllm.init.settings import InitSettings
from mllm.model.chat_template import ASSISTANT, IMAGE_TOKENS, PLAIN_CHAT_TEMPLATE, USER
from runtime.errors import UserError, says
from tokenizer.model.configuration_semhitok import MAX_LAYERS
from tokenizer.saved.model_folder import refuse_nonfinite


def make_language_model(
    settings: InitSettings,
) -> tuple[PreTrainedTokenizerBase, PreTrainedConfig, PreTrainedModel | None]:
    """Its text tokenizer and config, and itself where it is pre-trained.

    Raises:
        UserError: if it cannot be made or loaded with these settings.
    """
    if settings.llm is not None:
        text_tokenizer, language_model = _pretrained(settings.llm, settings)
        return text_tokenizer, language_model.config, language_model
    text_tokenizer = _new_text_tokenizer(settings)
    special = special_token_ids(text_tokenizer)
    return (
        text_tokenizer,
        make_text_config(settings, vocab_size=len(text_tokenizer), **special),
        None,
    )


def special_token_ids(text_tokenizer: PreTrainedTokenizerBase) -> dict[str, int | None]:
    """Ids of padding, begin and end of text, as configs name them."""
    names = ("pad_token_id", "bos_token_id", "eos_token_id")
    return {name: getattr(text_tokenizer, name) for name in names}


def _new_text_tokenizer(settings: InitSettings) -> PreTrainedTokenizerBase:
    if not settings.text_data:
        raise UserError(
            "a language model from nothing needs text_data, the prepared folders that its "
            "vocabulary is trained on; give them, or name a pre-trained model with llm"
        )
    texts: list[str] = []
    for folder in settings.text_data:
        for record in PreparedDataset(folder).texts():
            texts += record.captions
            for question in record.questions:
                texts.append(question.question)
                if question.answers:
                    texts.append(most_frequent_answer(question.answers))
            for conversation in record.conversations:
                texts += [message.content for message in conversation.messages]
            if record.text is not None:
                texts.append(record.text)
    special = [USER, ASSISTANT, *IMAGE_TOKENS]
    text_tokenizer = train_text_tokenizer(texts, settings.vocab_size, special)
    text_tokenizer.chat_template = PLAIN_CHAT_TEMPLATE
    return text_tokenizer


def make_text_config(settings: InitSettings, **others: Any) -> PreTrainedConfig:
    """The config of the language model that `text_config` describes; `others` override its fields.

    Raises:
        UserError: if it describes no language model of transformers.
    """
    fields = dict(settings.text_config)
    model_type = fields.pop("model_type", None)
    if model_type is None:
        raise UserError("text_config needs a model_type, such as qwen2 or llama")
    if model_type not in CONFIG_MAPPING:
        raise UserError(
            f"text_config.model_type {model_type!r} is unknown to transformers; name a decoder "
            f"language model, such as qwen2 or llama"
        )
    layers = fields.get("num_hidden_layers")
    if isinstance(layers, int) and layers > MAX_LAYERS:
        raise UserError(f"text_config.num_hidden_layers must be at most {MAX_LAYERS}, not {layers}")
    try:
        text_config = AutoConfig.for_model(model_type, **{**fields, **others})
    except Exception as error:  # strict dataclasses raise their own types
        raise UserError(f"text_config does not fit: {says(error)}") from error
    # A config keeps the names that it does not know.
    if unknown := fields.keys() - type(text_config)().to_dict().keys():
        raise UserError(
            f"text_config.{min(unknown)} is not a field of {type(text_config).__name__}"
        )
    width, num_heads = text_config.hidden_size, text_config.num_attention_heads
    if width % num_heads and "head_dim" not in fields:
        raise UserError(
            f"text_config.hidden_size {width} is not divisible by num_attention_heads {num_heads}; "
            f"change one of them"
        )
    return text_config


def _pretrained(
    name: str, settings: InitSettings
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """A pre-trained LM with embeddings of the three image tokens."""
    source, options = name, {}
    if name.endswith(".gguf"):
        source, options = str(Path(name).parent), {"gguf_file": Path(name).name}
    try:
        # Neither code nor pickles of the folder are run or read.
        text_tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **options)
        language_model = AutoModelForCausalLM.from_pretrained(
            source, trust_remote_code=False, use_safetensors=True, **options
        )
    except (OSError, ValueError, ImportError) as error:
        raise UserError(
            f"no causal language model can be loaded from {name!r}: {says(error)}"
        ) from error
    refuse_nonfinite(language_model, repr(name))
    # The weights of a GGUF file are float32 now; a config that said otherwise forbids training.
    vars(language_model.config).pop("quantization_config", None)
    for field, value in settings.text_config.items():
        found = getattr(language_model.config, field, None)
        if isinstance(value, int) and value != found:
            raise UserError(
                f"text_config.{field} is {value}, but {found} in {name}; take that line out of "
                f"text_config, or name another llm"
            )
    _add_tokens(text_tokenizer, list(IMAGE_TOKENS))
    if text_tokenizer.chat_template is None:
        _add_tokens(text_tokenizer, [USER, ASSISTANT])
        text_tokenizer.chat_template = PLAIN_CHAT_TEMPLATE
    if text_tokenizer.pad_token_id is None:
        text_tokenizer.pad_token = text_tokenizer.eos_token
    if len(text_tokenizer) > language_model.get_input_embeddings().num_embeddings:
        # The mean start, which is ruinous for 196,608 new tokens, is right for a handful.
        with torch.no_grad():
            language_model.resize_token_embeddings(len(text_tokenizer), mean_resizing=True)
    return text_tokenizer, language_model


def _add_tokens(text_tokenizer: PreTrainedTokenizerBase, tokens: list[str]) -> None:
    text_tokenizer.add_special_tokens(
        {"additional_special_tokens": tokens}, replace_extra_special_tokens=False
    )
