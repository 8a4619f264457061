"""A training phase with LoRA: new tokens, layers that are there already, 4-bit base (QLoRA)."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import BitsAndBytesConfig, PreTrainedTokenizerBase, set_seed

from mllm.drawing.public_model import UnifiedForConditionalGeneration
from mllm.model.chat_template import ASSISTANT, BEGIN_OF_IMAGE, END_OF_IMAGE, USER
from mllm.model.lora import add_lora
from mllm.model.modeling_unified import UnifiedModel
from mllm.phase.settings import LoRASettings
from mllm.saved.load import load_model
from runtime.errors import UserError

# Never in 4 bits: the frozen tokenizer's fingerprint is of its exact weights, and the others train.
_NOT_IN_4BIT = ["image_tokenizer", "adapter", "image_head", "lm_head", r".*\.lora_[AB]"]


def load_for_lora(
    folder: Path, lora: LoRASettings | None, text_tokenizer: PreTrainedTokenizerBase, seed: int
) -> UnifiedForConditionalGeneration:
    """The model that a phase trains, with LoRA layers where the phase or the model has them.

    Raises:
        UserError: if the layers of `folder` are not those of `lora`, a target does not exist, or
            4 bits are asked for without bitsandbytes.
    """
    if lora is None or not lora.load_in_4bit:
        model = load_model(folder)
    else:
        model = load_model(folder, quantization_config=_four_bits())
    set_seed(seed)  # loading draws random numbers, and other ones under ZeRO-3
    put_lora(model, lora, new_token_ids(text_tokenizer), folder)
    embedding = model.get_input_embeddings().get_parameter("weight")
    if hasattr(embedding, "ds_id"):
        # ZeRO-3 demands one precision, and itself keeps float32 copies of what trains: layers that
        # were put in get that of the others.
        for parameter in model.parameters():
            if not hasattr(parameter, "ds_id"):
                parameter.data = parameter.data.to(embedding.dtype)
    return model


def put_lora(
    model: UnifiedModel, lora: LoRASettings | None, token_ids: list[int], folder: Path
) -> None:
    """Give a model the LoRA layers that a phase asks for, in place, unless it has them.

    `token_ids` are the tokens that are new to the language model, `folder` is named in messages.

    Raises:
        UserError: if the model has other layers than those of `lora`, or a target does not exist.
    """
    has = model.config.lora
    if lora is None:
        if has is not None:
            raise UserError(
                f"the model in {folder} has LoRA layers; give a lora section to train them, or "
                f"merge them first with `semhitok merge-lora`"
            )
        return
    settings = lora.model_dump(exclude={"load_in_4bit"}) | {"token_ids": token_ids}
    width = model.config.text_config.hidden_size
    if lora.rank > width:
        raise UserError(f"lora.rank {lora.rank} exceeds the width of the model, {width}; lower it")
    if has is None:
        try:
            add_lora(model, settings)
        except ValueError as error:
            raise UserError(str(error)) from error
    elif has != settings:
        other = next(name for name in settings if has.get(name) != settings[name])
        raise UserError(
            f"the model in {folder} has LoRA layers with {other} {has.get(other)}, not "
            f"{settings[other]}; give those settings, or merge the layers first with "
            f"`semhitok merge-lora`"
        )


def new_token_ids(text_tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of the tokens that are new to the language model."""
    vocabulary = text_tokenizer.get_vocab()
    # The tokens around an image; and the roles, which are new to a language model without a chat
    # template. The placeholder of an image position is never read or written.
    tokens = (BEGIN_OF_IMAGE, END_OF_IMAGE, USER, ASSISTANT)
    return [vocabulary[token] for token in tokens if token in vocabulary]


def _four_bits() -> BitsAndBytesConfig:
    if find_spec("bitsandbytes") is None:
        raise UserError(
            "lora.load_in_4bit needs the package bitsandbytes, which is not installed; run "
            "`pip install bitsandbytes`, or set lora.load_in_4bit to false"
        )
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",  # QLoRA (arXiv 2305.14314)
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=_NOT_IN_4BIT,
    )


@contextmanager
def trainable_over_four_bits(model: UnifiedModel) -> Iterator[None]:
    """Let the Trainer accept a 4-bit model: this mark tells it that there are LoRA layers."""
    if not getattr(model, "is_quantized", False):
        yield
        return
    model._hf_peft_config_loaded = True
    try:
        yield
    finally:
        model._hf_peft_config_loaded = False
