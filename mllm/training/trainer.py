"""The HF Trainer with our optimisers, checkpoints that are whole, and losses for the log.

Steps whose gradients are not finite move nothing, and too many in a row end the run.
"""

import math
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import Trainer
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from mllm.model.lora import add_lora
from mllm.phase.lora_phase import trainable_over_four_bits
from mllm.phase.optimizer import MuonWithAdamW
from mllm.phase.parameter_groups import parameter_groups
from mllm.phase.settings import PhaseSettings
from mllm.saved.load import load_model
from mllm.training.checkpoints import begin, finish
from mllm.training.deepspeed import repair_universal
from mllm.training.report import Tally
from runtime.bad_steps import BadSteps, IdleSteps
from runtime.errors import UserError, says
from runtime.files import torch_could_not_write


class UnifiedTrainer(Trainer):
    """The HF Trainer of a run; `universal` resumes from a checkpoint of another number of ranks."""

    optimizer: Any

    def __init__(self, settings: PhaseSettings, universal: bool = False, **kwargs: Any):
        self.settings, self.universal, self.tally = settings, universal, Tally()
        self.groups = parameter_groups(kwargs["model"], settings)
        self.bad_steps = BadSteps(settings.out, self._record_ids)
        self.idle_steps = IdleSteps(settings.num_steps)
        with trainable_over_four_bits(kwargs["model"]):
            super().__init__(**kwargs)

    def create_optimizer(self, model=None):
        if self.optimizer is None:
            if self.settings.optimizer == "muon":
                self.optimizer = MuonWithAdamW(self.groups, self.settings)
            else:
                optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
                groups = [group.for_torch(self.settings) for group in self.groups]
                self.optimizer = optimizer_class(groups, **options)
        optimizer = super().create_optimizer(model)
        self.group_settings = [
            {name: group[name] for name in ("weight_decay", "betas", "eps") if name in group}
            for group in optimizer.param_groups
        ]
        return optimizer

    def _clip_grad_norm(self, model):
        norm = super()._clip_grad_norm(model)
        if norm is None or math.isfinite(float(norm)):
            self.bad_steps.steps.clear()
            if norm is not None:
                self.idle_steps.add(float(norm))
            return norm
        # What has no gradient is not moved. (DeepSpeed has moved it already.)
        model.zero_grad(set_to_none=True)
        self.bad_steps.add(self.state.global_step + 1)
        if self.bad_steps.are_too_many:
            self.stop_at_bad_steps()
        return norm

    def stop_at_bad_steps(self) -> None:
        """Refuse to go on or to save after bad steps, if there are any; a file names the records of
        all of them."""
        if not (steps := self.bad_steps.steps):
            return
        path = self.bad_steps.write()
        raise UserError(
            f"the loss or gradient of the steps {steps[0]} to {steps[-1]} is not finite, and no "
            f"model is saved; the records of their batches are in {path}: look at those, or lower "
            f"learning_rate, and add overwrite=true"
        )

    def _record_ids(self, step: int) -> list[str]:
        size = self.settings.global_batch_size
        ids: list[str] = self.train_dataset.record_ids(range((step - 1) * size, step * size))
        return ids

    def log(self, logs, start_time=None):
        super().log(logs, start_time)
        self._tr_loss.zero_()  # the Trainer subtracts it from itself, and a NaN would stay for ever

    def _save_checkpoint(self, model, trial):
        if self.bad_steps.steps:  # under DeepSpeed the weights may be no numbers now
            return
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        if self.is_world_process_zero():
            begin(folder)
        self.accelerator.wait_for_everyone()
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, RuntimeError, SafetensorError) as error:
            if isinstance(error, RuntimeError) and not torch_could_not_write(error):
                raise
            shutil.rmtree(folder, ignore_errors=True)
            raise UserError(
                f"cannot write {folder}: {says(error)}; free some space, then run the same command "
                f"again to resume"
            ) from error
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            finish(folder, self.args.world_size)

    def save_trained(self, out: Path) -> None:
        """Write the weights of a finished run; every rank calls it.

        DeepSpeed trains a copy of the model in bfloat16, frozen parts and all, and QLoRA over a
        4-bit base. Neither may write its rounded copy back: codes are those of the exact image
        tokenizer, and what was frozen stays as it was. So such a run saves the folder that it began
        from, with the float32 weights of what it trained.
        """
        is_rounded = self.settings.deepspeed is not None and self.settings.bf16
        if not is_rounded and not self.settings.in_4bit:
            self.save_model(str(out))
            return
        state = self._trained_state()
        if self.is_world_process_zero():
            unset_hf_deepspeed_config()  # else ZeRO-3 would load this model in pieces, on all ranks
            whole = load_model(self.settings.model)
            if whole.config.lora is None and self.model.config.lora is not None:
                add_lora(whole, self.model.config.lora)
            unknown = whole.load_state_dict(state, strict=False).unexpected_keys
            assert not unknown, unknown
            whole.save_pretrained(out)

    @torch.no_grad()
    def _trained_state(self) -> dict[str, Tensor]:
        """What trains, by name, in float32 on the main rank's host; empty on other ranks."""
        state: dict[str, Tensor] = {}
        for name, parameter in self.model.named_parameters():
            if not parameter.requires_grad:
                continue
            if hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping"):
                from deepspeed.utils import safe_get_full_fp32_param

                parameter = safe_get_full_fp32_param(parameter)  # a gathering of all ranks
            if self.is_world_process_zero():
                state[name] = parameter.detach().float().cpu().clone()
        return state

    def _load_optimizer_and_scheduler(self, checkpoint):
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.universal:
            repair_universal(self.model_wrapped.optimizer.optimizer, self.group_settings)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**inputs)
        self.tally.add(inputs, outputs)
        return (outputs.loss, outputs) if return_outputs else outputs.loss
