"""The HF Trainer with our optimisers, checkpoints that are whole, and losses for the log."""

from pathlib import Path
from typing import Any

from transformers import Trainer

from mllm.phase.lora_phase import trainable_over_four_bits
from mllm.phase.optimizer import MuonWithAdamW
from mllm.phase.parameter_groups import ParameterGroup
from mllm.phase.settings import PhaseSettings
from mllm.training.checkpoints import begin, finish
from mllm.training.deepspeed import repair_universal
from mllm.training.report import Tally


class UnifiedTrainer(Trainer):
    """The HF Trainer, with the parts' learning rates, and the losses of each task for the log.

    Args:
        settings: of the run.
        groups: what the optimiser moves.
        tally: sums up the losses.
        universal: resume from a universal checkpoint, of another number of ranks.
    """

    optimizer: Any

    def __init__(
        self,
        *args: Any,
        settings: PhaseSettings,
        groups: list[ParameterGroup],
        tally: Tally,
        universal: bool = False,
        **kwargs: Any,
    ):
        self.settings, self.groups = settings, groups
        self.tally, self.universal = tally, universal
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

    def _save_checkpoint(self, model, trial):
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        if self.is_world_process_zero():
            begin(folder)
        self.accelerator.wait_for_everyone()
        super()._save_checkpoint(model, trial)
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
