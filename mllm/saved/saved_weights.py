"""The tensors of a saved model one at a time, and which of them a training run writes anew.

DeepSpeed trains a copy of the model in bfloat16, frozen parts and all, and QLoRA over a packed
base. Neither may write its rounded copy back: codes are those of the exact image tokenizer, and
what was frozen stays as it was. So what such a run saves is the folder that it began from, with the
float32 weights of what it trained.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import Trainer
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from mllm.drawing.public_model import UnifiedForConditionalGeneration
from mllm.model.lora import add_lora
from mllm.phase.settings import MLLMPhaseConfig
from mllm.saved.load import load_model
from tokenizer.model.fingerprint import fingerprint_of_weights


class Weights:
    """The tensors of a saved model, each read when asked for.

    Args:
        folder: with model.safetensors, or with shards and their index.
    """

    def __init__(self, folder: Path):
        index = folder / "model.safetensors.index.json"
        if index.is_file():
            files = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            self._files = {name: folder / file for name, file in files.items()}
        else:
            with safe_open(folder / "model.safetensors", "pt") as file:
                self._files = dict.fromkeys(file.keys(), folder / "model.safetensors")

    def __getitem__(self, name: str) -> Tensor:
        with safe_open(self._files[name], "pt") as file:
            return file.get_tensor(name)

    def names(self, prefix: str) -> list[str]:
        """Names that begin so, in order."""
        return sorted(name for name in self._files if name.startswith(prefix))

    def below(self, prefix: str) -> dict[str, Tensor]:
        """The state of one part of the model."""
        return {name.removeprefix(prefix): self[name] for name in self.names(prefix)}


def saved_code_fingerprint(folder: Path, model: UnifiedForConditionalGeneration) -> str:
    """Of the image tokenizer in a folder, in whatever precision `model` was loaded from it."""
    weights, prefix = Weights(folder), "image_tokenizer."
    return fingerprint_of_weights(
        model.config.image_tokenizer_config,
        [name.removeprefix(prefix) for name in weights.names(prefix)],
        lambda name: weights[prefix + name],
    )


def save_trained(
    trainer: Trainer, config: MLLMPhaseConfig, model: UnifiedForConditionalGeneration, out: Path
) -> None:
    """Write the weights of a finished run; every rank calls it.

    Args:
        trainer: of the run.
        config: of the run, which began from `config.model`.
        model: what was trained, without a wrapper.
        out: folder to write.
    """
    rounded = config.deepspeed is not None and config.bf16
    packed = config.lora is not None and config.lora.load_in_4bit
    if not rounded and not packed:
        trainer.save_model(str(out))
        return
    state = _trained_state(model, trainer.is_world_process_zero())
    if trainer.is_world_process_zero():
        unset_hf_deepspeed_config()  # else ZeRO-3 would load this model in pieces, on all ranks
        whole = load_model(config.model)
        if whole.config.lora is None and model.config.lora is not None:
            add_lora(whole, model.config.lora)
        missing = whole.load_state_dict(state, strict=False).unexpected_keys
        assert not missing, missing
        whole.save_pretrained(out)


@torch.no_grad()
def _trained_state(model: UnifiedForConditionalGeneration, keep: bool) -> dict[str, Tensor]:
    """What trains, by name, in float32 on the host; empty on ranks that do not keep it."""
    state: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        whole = _in_float32(parameter)  # a gathering of all ranks, under DeepSpeed
        if keep:
            state[name] = whole.detach().float().cpu().clone()
    return state


def _in_float32(parameter: Any) -> Tensor:
    if not hasattr(parameter, "ds_id") and not hasattr(parameter, "_hp_mapping"):
        return parameter
    from deepspeed.utils import safe_get_full_fp32_param

    return safe_get_full_fp32_param(parameter)
