"""What a finished run saves: the exact weights of what it trained, in a whole model.

DeepSpeed trains a copy of the model in bfloat16, frozen parts and all, and QLoRA over a 4-bit base.
Neither may write its rounded copy back: codes are those of the exact image tokenizer, and what was
frozen stays as it was. So such a run saves the folder that it began from, with the float32 weights
of what it trained.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from mllm.model.lora import add_lora
from mllm.model.modeling_unified import UnifiedModel
from mllm.phase.settings import PhaseSettings
from mllm.saved.load import load_model


def save_trained(trainer: Trainer, settings: PhaseSettings, model: UnifiedModel, out: Path) -> None:
    """Write the weights of a finished run, `model` without a wrapper; every rank calls it."""
    is_rounded = settings.deepspeed is not None and settings.bf16
    if not is_rounded and not settings.in_4bit:
        trainer.save_model(str(out))
        return
    state = _trained_state(model, trainer.is_world_process_zero())
    if trainer.is_world_process_zero():
        unset_hf_deepspeed_config()  # else ZeRO-3 would load this model in pieces, on all ranks
        whole = load_model(settings.model)
        if whole.config.lora is None and model.config.lora is not None:
            add_lora(whole, model.config.lora)
        unknown = whole.load_state_dict(state, strict=False).unexpected_keys
        assert not unknown, unknown
        whole.save_pretrained(out)


@torch.no_grad()
def _trained_state(model: UnifiedModel, keep: bool) -> dict[str, Tensor]:
    """What trains, by name, in float32 on the host; empty on ranks that do not keep it."""
    state: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        whole: Any = parameter
        if hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping"):
            from deepspeed.utils import safe_get_full_fp32_param

            whole = safe_get_full_fp32_param(parameter)  # a gathering of all ranks
        if keep:
            state[name] = whole.detach().float().cpu().clone()
    return state
