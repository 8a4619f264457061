"""Build a unified model once, offline: language model + image tokenizer + new weights.

    semhitok init-mllm --config configs/quickstart/init_mllm.yaml
    semhitok init-mllm --llm NAME --tokenizer DIR --out DIR

The text rows are not touched and no matrix is resized: image tokens have their adapter and head,
which begin from the codebooks.
"""

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)

from data_pipelines.loading.dataset import PreparedDataset
from data_pipelines.text_tokenizer import train_text_tokenizer
from mllm.drawing.public_model import UnifiedForConditionalGeneration
from mllm.init.architecture import refuse_other_architecture
from mllm.init.start_from_codebooks import start_from_codebooks
from mllm.model.chat_template import ASSISTANT, IMAGE_TOKENS, PLAIN_CHAT_TEMPLATE, USER
from mllm.model.configuration_unified import UnifiedConfig
from mllm.model.processing_unified import UnifiedProcessor
from mllm.phase.settings import InitConfig
from runtime.config import load_config
from runtime.errors import UserError, says
from runtime.run_folder import make_folder
from runtime.settings import to_dict
from tokenizer.model.image_processing_semhitok import image_processor
from tokenizer.saved.model_folder import load_tokenizer, whole_folder


def init_mllm(config: InitConfig) -> Path:
    """Write the model folder that training starts from."""
    make_folder(config.out)
    image_tokenizer = load_tokenizer(config.tokenizer)
    set_seed(config.seed)
    if config.llm is None:
        text_tokenizer = _new_text_tokenizer(config)
        language_model = None
        text_config = _new_text_config(config, text_tokenizer)
    else:
        text_tokenizer, language_model = _pretrained(config.llm, config.text_config)
        text_config = language_model.config
    begin, end, image = text_tokenizer.convert_tokens_to_ids(list(IMAGE_TOKENS))
    # Whatever the LM was saved in: optimisers keep float32, and two dtypes in one model do not mix.
    text_config.dtype = torch.float32
    unified_config = UnifiedConfig(
        text_config=text_config.to_dict(),
        image_tokenizer_config=image_tokenizer.config.to_dict(),
        begin_of_image_token_id=begin,
        end_of_image_token_id=end,
        image_token_id=image,
        image_input=config.image_input,
        image_head=config.image_head,
        image_positions=config.image_positions,
        z_loss_weight=config.z_loss_weight,
        image_sampler=to_dict(config.sampler),
        tie_word_embeddings=text_config.tie_word_embeddings,
    )
    try:
        model = UnifiedForConditionalGeneration(unified_config)
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"No unified model can be built on a {text_config.model_type!r} model: {says(error)}"
        ) from error
    model.image_tokenizer.load_state_dict(image_tokenizer.state_dict())
    if language_model is not None:
        model.language_model.load_state_dict(language_model.state_dict())
    refuse_other_architecture(model)
    if language_model is not None:
        _refuse_other_logits(model)
    if config.new_weights == "codebooks":
        start_from_codebooks(model, config.seed)
    model.generation_config = GenerationConfig(
        eos_token_id=text_tokenizer.eos_token_id,
        bos_token_id=text_tokenizer.bos_token_id,
        pad_token_id=text_tokenizer.pad_token_id,
    )
    processor = UnifiedProcessor(
        image_processor(image_tokenizer.config),
        text_tokenizer,
        num_image_positions=unified_config.num_image_positions,
    )
    with whole_folder(config.out) as unfinished:
        model.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
    return config.out


@torch.no_grad()
def _refuse_other_logits(model: UnifiedForConditionalGeneration) -> None:
    """Some language models do more to their logits than the head: they would be lost.

    Raises:
        UserError: if the extended model's text logits are not the language model's own.
    """
    token_ids = torch.arange(min(16, model.config.text_config.vocab_size)).unsqueeze(0)
    model.eval()
    if not torch.equal(model(token_ids).logits, model.language_model(token_ids).logits):
        raise UserError(
            f"A {model.config.text_config.model_type!r} model changes its logits after the head "
            f"(a cap or a scale), which the unified model does not: choose an llm without it, such "
            f"as Qwen2, Llama, Mistral or Gemma 3."
        )


def _new_text_tokenizer(config: InitConfig) -> PreTrainedTokenizerBase:
    if not config.text_data:
        raise UserError(
            "A language model from nothing needs text_data, the prepared folders that its "
            "vocabulary is trained on; or name a pre-trained one with llm."
        )
    texts: list[str] = []
    for folder in config.text_data:
        for record in PreparedDataset(folder).texts():
            texts += record.captions
            for question in record.questions:
                texts += [question.question, *question.answers[:1]]
            for conversation in record.conversations:
                texts += [message.content for message in conversation.messages]
            if record.text is not None:
                texts.append(record.text)
    text_tokenizer = train_text_tokenizer(
        texts, config.vocab_size, [USER, ASSISTANT, *IMAGE_TOKENS]
    )
    text_tokenizer.chat_template = PLAIN_CHAT_TEMPLATE
    return text_tokenizer


def _new_text_config(
    config: InitConfig, text_tokenizer: PreTrainedTokenizerBase
) -> PreTrainedConfig:
    fields = dict(config.text_config)
    model_type = fields.pop("model_type", None)
    if model_type is None:
        raise UserError("text_config needs a model_type, such as qwen2 or llama.")
    if model_type not in CONFIG_MAPPING:
        raise UserError(
            f"text_config.model_type {model_type!r} is unknown to transformers: name a decoder "
            f"language model, such as qwen2 or llama."
        )
    try:
        text_config = AutoConfig.for_model(
            model_type,
            **fields,
            vocab_size=len(text_tokenizer),
            pad_token_id=text_tokenizer.pad_token_id,
            bos_token_id=text_tokenizer.bos_token_id,
            eos_token_id=text_tokenizer.eos_token_id,
        )
    except ValueError as error:
        raise UserError(f"text_config does not fit: {says(error)}") from error
    width, num_heads = text_config.hidden_size, text_config.num_attention_heads
    if width % num_heads:
        raise UserError(
            f"text_config.hidden_size {width} is not divisible by num_attention_heads {num_heads}: "
            f"change one of them."
        )
    refuse_unknown_fields(text_config, fields)
    return text_config


def refuse_unknown_fields(text_config: PreTrainedConfig, fields: Iterable[str]) -> None:
    """Raise a UserError for a name that `text_config` does not know, which it would swallow."""
    unknown = [field for field in fields if field not in type(text_config)().to_dict()]
    if unknown:
        raise UserError(f"text_config.{unknown[0]} is not a field of {type(text_config).__name__}.")


def _pretrained(
    name: str, expected: Mapping[str, Any]
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """A pre-trained LM with rows for the three image tokens.

    Raises:
        UserError: if there is none, or it has other sizes than those expected.
    """
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
            f"No causal language model can be loaded from {name!r}: {says(error)}"
        ) from error
    # The weights of a GGUF file are float32 now; a config that said otherwise forbids training.
    vars(language_model.config).pop("quantization_config", None)
    for field, value in expected.items():
        found = getattr(language_model.config, field, None)
        if isinstance(value, int) and value != found:
            raise UserError(
                f"text_config.{field} is {value}, but {found} in {name}: take that line out of "
                f"text_config, or name another llm."
            )
    text_tokenizer.add_special_tokens(
        {"additional_special_tokens": list(IMAGE_TOKENS)}, replace_extra_special_tokens=False
    )
    if text_tokenizer.chat_template is None:
        text_tokenizer.add_special_tokens(
            {"additional_special_tokens": [USER, ASSISTANT]}, replace_extra_special_tokens=False
        )
        text_tokenizer.chat_template = PLAIN_CHAT_TEMPLATE
    if text_tokenizer.pad_token_id is None:
        text_tokenizer.pad_token = text_tokenizer.eos_token
    num_rows = language_model.get_input_embeddings().num_embeddings
    if len(text_tokenizer) > num_rows:
        # A handful of rows only: the mean start that is ruinous for 196,608 rows is right for 3.
        with torch.no_grad():
            language_model.resize_token_embeddings(len(text_tokenizer), mean_resizing=True)
    return text_tokenizer, language_model


def command(args: argparse.Namespace) -> Path:
    """`semhitok init-mllm`."""
    named = {name: getattr(args, name) for name in ("llm", "tokenizer", "out")}
    overrides = [f"{name}={value}" for name, value in named.items() if value is not None]
    return init_mllm(load_config(InitConfig, args.config, [*args.overrides, *overrides]))
