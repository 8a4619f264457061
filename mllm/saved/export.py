"""A trained model in another form: without LoRA layers, or as a causal LM that any server loads.

    semhitok merge-lora --model runs/smollm2-135m/mllm/model --out runs/merged
    semhitok export-llm --model DIR --out DIR

A plain causal LM has one embedding and one head. The adapter is a function of the image code alone,
so its values become rows of the embedding; the rows of a flat head follow those of the LM's head.
Text ids stay, image code h is token id `image_token_offset + h`. The plain model chooses among all
tokens at once; the unified model chooses among text or among image tokens, which a server restores
by masking the others.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationConfig

from mllm.model.adapter import make_adapter
from mllm.model.configuration_unified import UnifiedConfig
from mllm.model.lora import merge
from mllm.saved.load import load_config, load_model, load_processor
from mllm.saved.saved_weights import Weights
from mllm.saved.settings import ExportSettings, MergeSettings
from runtime.errors import UserError
from runtime.files import write_json
from tokenizer.model.modeling_semhitok import SemHiTokModel
from tokenizer.saved.model_folder import whole_folder

CHUNK = 8192  # image codes folded at once
SHARD_BYTES = 5 * 10**9  # as transformers cuts its own files


def merge_lora(settings: MergeSettings) -> Path:
    """Write the plain model of a LoRA one; its logits are the same to rounding.

    Raises:
        UserError: if the folder holds no model, or one without LoRA layers.
    """
    folder, out = settings.model, settings.out
    if folder.resolve() == out.resolve():
        raise UserError(f"--out is the model's own folder {folder}; choose another")
    model, processor = load_model(folder), load_processor(folder)
    if model.config.lora is None:
        raise UserError(f"the model in {folder} has no LoRA layers; it is a plain one already")
    merge(model)
    with whole_folder(out) as unfinished:
        model.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
    return out


def export_llm(settings: ExportSettings) -> Path:
    """Write the plain causal LM of a unified model; memory holds one shard and two tensors at most.

    The folder gets weights in shards, config, text tokenizer, and `image_tokens.json`, which says
    where the image ids lie.

    Raises:
        UserError: if the model holds something that a plain LM has no place for.
    """
    folder = settings.model
    config = load_config(folder)
    _refuse_what_cannot_be_folded(folder, config)
    processor = load_processor(folder)
    image = config.image_tokenizer_config
    plain_config = type(config.text_config)(**config.text_config.to_dict())
    plain_config.vocab_size = config.image_token_offset + image.num_image_codes
    plain_config.tie_word_embeddings = False  # an image code is read by one row, written by another
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(plain_config)
    plain_config.architectures = [type(plain).__name__]
    names = {id(module): name for name, module in plain.named_modules()}
    ends = [names[id(m)] for m in (plain.get_input_embeddings(), plain.get_output_embeddings())]
    with whole_folder(settings.out) as unfinished:
        _write_shards(_tensors(Weights(folder), config, *ends), unfinished)
        plain_config.save_pretrained(unfinished)
        if (folder / "generation_config.json").is_file():
            GenerationConfig.from_pretrained(folder).save_pretrained(unfinished)
        processor.tokenizer.save_pretrained(unfinished)
        write_json(
            unfinished / "image_tokens.json",
            {
                "image_token_offset": config.image_token_offset,
                "num_semantic_codes": image.num_semantic_codes,
                "num_pixel_codes": image.num_pixel_codes,
                "num_image_positions": config.num_image_positions,
                "begin_of_image_token_id": config.begin_of_image_token_id,
                "end_of_image_token_id": config.end_of_image_token_id,
            },
        )
    return settings.out


def _refuse_what_cannot_be_folded(model: Path, config: UnifiedConfig) -> None:
    if config.lora is not None:
        raise UserError(
            f"the model in {model} has LoRA layers beside its matrices; merge them first with "
            f"`semhitok merge-lora`"
        )
    if config.image_head != "flat":
        raise UserError(
            f"the {config.image_head} image head of {model} makes two decisions, which a plain "
            f"language model cannot; train a model with image_head: flat (init-mllm)"
        )
    if config.image_positions != "none":
        raise UserError(
            f"{model} adds the position in the {config.image_positions} to its image tokens, which "
            f"no embedding can hold; train a model with image_positions: none (init-mllm)"
        )
    with torch.device("meta"):
        embedding = AutoModelForCausalLM.from_config(config.text_config).get_input_embeddings()
    if type(embedding) is not nn.Embedding:
        raise UserError(
            f"a {config.text_config.model_type!r} model scales its embeddings, also those of image "
            f"tokens; train on Qwen, Llama or Mistral to export a plain model"
        )


def _tensors(
    weights: Weights, config: UnifiedConfig, embedding: str, head: str
) -> Iterator[tuple[str, Tensor]]:
    """The plain model's tensors one by one, by name."""
    prefix = "language_model."
    for name in weights.names(prefix):
        if name not in (f"{prefix}{embedding}.weight", f"{prefix}{head}.weight"):
            tensor = weights[name]
            if name == f"{prefix}{head}.bias":  # image codes have none
                tensor = F.pad(tensor, (0, config.image_tokenizer_config.num_image_codes))
            yield name.removeprefix(prefix), tensor
    rows = f"{prefix}{embedding}.weight"
    # A tied head has no weights of its own on disk.
    head_rows = f"{prefix}{head}.weight" if weights.names(f"{prefix}{head}.weight") else rows
    yield f"{embedding}.weight", _with_folded_adapter(weights[rows], weights, config)
    yield f"{head}.weight", torch.cat([weights[head_rows], weights["image_head.rows.weight"]])


@torch.no_grad()
def _with_folded_adapter(text: Tensor, weights: Weights, config: UnifiedConfig) -> Tensor:
    """(text vocabulary + K·M, D): embeddings of text, then the adapter's output for each code."""
    image = config.image_tokenizer_config
    image_tokenizer = SemHiTokModel(image).eval()
    image_tokenizer.load_state_dict(weights.below("image_tokenizer."))
    adapter = make_adapter(config)
    adapter.load_state_dict(weights.below("adapter."))
    rows = text.new_empty(len(text) + image.num_image_codes, text.shape[1])
    rows[: len(text)] = text
    for first in range(0, image.num_image_codes, CHUNK):
        codes = torch.arange(first, min(first + CHUNK, image.num_image_codes))
        start = len(text) + first
        rows[start : start + len(codes)] = adapter(codes, image_tokenizer, codes)
    return rows


def _write_shards(tensors: Iterator[tuple[str, Tensor]], folder: Path) -> None:
    """Safetensors files of `SHARD_BYTES` and the index that servers look for."""
    shards: list[list[str]] = []
    shard: dict[str, Tensor] = {}
    total = 0

    def flush() -> None:
        save_file(shard, folder / f"shard-{len(shards)}.safetensors", metadata={"format": "pt"})
        shards.append(list(shard))
        shard.clear()

    for name, tensor in tensors:
        if shard and sum(t.nbytes for t in shard.values()) + tensor.nbytes > SHARD_BYTES:
            flush()
        shard[name] = tensor.contiguous()
        total += tensor.nbytes
    flush()
    # The number of files is part of their names, and known only now.
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards):
        file = f"model-{number + 1:05}-of-{len(shards):05}.safetensors"
        (folder / f"shard-{number}.safetensors").rename(folder / file)
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_json(folder / "model.safetensors.index.json", index)
