"""The HF Trainer with our optimisers, checkpoints that are whole, and losses for the log."""

import math
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import Trainer

from mllm.phase.lora_phase import trainable_over_four_bits
from mllm.phase.optimizer import MuonWithAdamW
from mllm.phase.parameter_groups import ParameterGroup
from mllm.phase.settings import PhaseSettings
from mllm.training.checkpoints import begin, finish
from mllm.training.deepspeed import repair_universal
from mllm.training.nonfinite import BadSteps
from mllm.training.report import Tally
from runtime.errors import UserError, says


class UnifiedTrainer(Trainer):
    """The HF Trainer, with the parts' learning rates, and the losses of each task for the log.

    Args:
        settings: of the run.
        groups: what the optimiser moves.
        tally: sums up the losses.
        bad_steps: notes steps whose gradients are not finite.
        universal: resume from a universal checkpoint, of another number of ranks.
    """

    optimizer: Any

    def __init__(
        self,
        *args: Any,
        settings: PhaseSettings,
        groups: list[ParameterGroup],
        tally: Tally,
        bad_steps: BadSteps,
        universal: bool = False,
        **kwargs: Any,
    ):
        self.settings, self.groups = settings, groups
        self.tally, self.bad_steps, self.universal = tally, bad_steps, universal
        with trainable_over_four_bits(kwargs["model"]):
            super().__init__(*args, **kwargs)

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
        else:
            # What has no gradient is not moved. (DeepSpeed has moved it already.)
            model.zero_grad(set_to_none=True)
            self.bad_steps.add(self.state.global_step + 1)
        return norm

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
            # torch says of a full disk no more than that it failed to write.
            if isinstance(error, RuntimeError) and "PytorchStreamWriter" not in str(error):
                raise
            shutil.rmtree(folder, ignore_errors=True)
            raise UserError(
                f"cannot write {folder}: {says(error)}; free some space, then run the same command "
                f"again to resume"
            ) from error
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            finish(folder, self.args.world_size)

    def _load_optimizer_and_scheduler(self, checkpoint):
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.universal:
            repair_universal(self.model_wrapped.optimizer.optimizer, self.group_settings)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**inputs)
        self.tally.add(inputs, outputs)
        return (outputs.loss, outputs) if return_outputs else outputs.loss
