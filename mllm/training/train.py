"""Train the unified model with the HF Trainer, in packed rows of all its tasks.

    semhitok train mllm --config configs/quickstart/mllm.yaml
    semhitok train mllm --config configs/mllm/smollm2-135m/mllm.yaml phase=align dry_run=true
    torchrun --nproc_per_node 2 -m semhitok train mllm --config FILE deepspeed=JSON

The loss of a row does not depend on the rows beside it, so ranks, micro-batches and accumulation
change nothing but speed.
"""

import argparse
import os
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, TrainingArguments, set_seed

from data_pipelines.loading.dataset import PreparedDataset
from mllm.data.code_check import refuse_other_run, refuse_wrong_codes
from mllm.data.packing import pack
from mllm.data.rows import TrainingRows, TrainingSource
from mllm.model.attention import choose_attention, refuse_attention
from mllm.model.processing_unified import UnifiedProcessor
from mllm.phase.deepspeed_config import (
    make_universal,
    read_deepspeed,
    repair_universal,
    start_deepspeed,
)
from mllm.phase.lora_phase import load_for_lora, trainable_over_four_bits
from mllm.phase.optimizer import MuonWithAdamW
from mllm.phase.parameter_groups import adamw_groups, as_optimizer_groups, freeze_parts
from mllm.phase.settings import MLLMPhaseConfig, load_phase
from mllm.planning.dry_run import dry_run
from mllm.planning.plan import flops, micro_batch_that_fits
from mllm.saved.load import load_processor
from mllm.saved.saved_weights import save_trained, saved_code_fingerprint
from mllm.training.checkpoints import Checkpoint, begin, delete_all, finish, newest
from mllm.training.report import Reporter, Tally
from mllm.training.samples import Samples
from runtime.config import load_config, to_dict
from runtime.errors import UserError
from runtime.run_folder import RunDirectory, write_json
from tokenizer.extraction.code_shards import CodeStore
from tokenizer.saved.model_folder import whole_folder
from tokenizer.training.checkpoint import refuse_other_settings


class UnifiedTrainer(Trainer):
    """The HF Trainer, with the parts' learning rates, and the losses of each task for the log.

    Args:
        config: of the run.
        universal: go on from a universal checkpoint, of another number of ranks.
    """

    optimizer: Any

    def __init__(self, *args: Any, config: MLLMPhaseConfig, universal: bool = False, **kwargs: Any):
        self.universal = universal
        with trainable_over_four_bits(kwargs["model"]):
            super().__init__(*args, **kwargs)
        self.config = config
        self.tally = Tally()
        self.first_rate = 1.0

    def create_optimizer(self, model=None):
        config = self.config
        if config.optimizer == "muon":
            self.first_rate = config.rates.layers
            if self.optimizer is None:
                self.optimizer = MuonWithAdamW(
                    self.model,
                    self.model.language_model,
                    config.learning_rate,
                    config.betas,
                    config.weight_decay,
                    config.rates,
                )
        else:
            groups = adamw_groups(self.model, config)
            self.first_rate = groups[0].rate
            if self.optimizer is None:
                optimizer_class, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
                self.optimizer = optimizer_class(as_optimizer_groups(groups, config), **settings)
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


def train_mllm(config: MLLMPhaseConfig) -> Path:
    """Train from `config.model`, or from the last whole checkpoint in `config.out`.

    Returns:
        The folder of the trained model, `out/model`.
    """
    last = _last_checkpoint(config)
    # DeepSpeed's shards are of one number of ranks; the Trainer's own checkpoints are of any.
    num_ranks = int(os.environ.get("WORLD_SIZE", "1"))
    universal = config.deepspeed is not None and last is not None and last.num_ranks != num_ranks
    arguments = _arguments(config, universal)
    set_seed(config.seed)
    # Only now, so that a refused run leaves the folder as it was.
    run = RunDirectory(config.out).start(config, "train mllm")
    processor = load_processor(config.model)
    model = load_for_lora(config.model, config.lora, processor.tokenizer, config.seed)
    freeze_parts(model, config.rates)
    choose_attention(model.language_model.get_decoder(), config.attention)
    rows = _rows(config, model, processor)
    write_json(run.path / "rows.json", rows.describe())
    row_length = config.row_length if config.packing else None
    pad_token_id = processor.tokenizer.pad_token_id
    trainer = UnifiedTrainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        data_collator=lambda batch: pack(batch, row_length, pad_token_id),
        config=config,
        universal=universal,
    )
    trainer.remove_callback(PrinterCallback)  # it prints a dictionary between the progress lines
    flops_per_token = flops(model, config, recompute=False) / config.row_length
    reporter = Reporter(trainer, run.path, flops_per_token)
    trainer.add_callback(reporter)
    if config.samples_every is not None:
        trainer.add_callback(Samples(reporter, model, processor, rows, config.samples_every))
    if universal and last is not None:
        if trainer.is_world_process_zero():
            make_universal(last.folder)
        trainer.accelerator.wait_for_everyone()
    trainer.train(resume_from_checkpoint=None if last is None else str(last.folder))
    if config.deepspeed is not None:
        assert type(trainer.model_wrapped).__name__ == "DeepSpeedEngine"
    model_folder = run.path / "model"
    with whole_folder(model_folder) as unfinished:
        save_trained(trainer, config, model, unfinished)
        if trainer.is_world_process_zero():
            (unfinished / "training_args.bin").unlink(missing_ok=True)  # a pickle
            model.generation_config.save_pretrained(unfinished)
            processor.save_pretrained(unfinished)
        trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        delete_all(Path(arguments.output_dir))
    return model_folder


def _rows(config: MLLMPhaseConfig, model: Any, processor: UnifiedProcessor) -> TrainingRows:
    """The run's rows, from sources whose codes belong to the model."""
    fingerprint = saved_code_fingerprint(config.model, model)
    sources = []
    for source in config.all_sources:
        records = PreparedDataset(source.data)
        codes = None if source.codes is None else CodeStore(source.codes)
        if codes is not None:
            refuse_wrong_codes(source, codes, records, fingerprint, config.model)
        sources.append(TrainingSource.open(records, codes, source.weight))
    refuse_other_run(config.out, [s.codes for s in sources if s.codes is not None])
    return TrainingRows(
        sources,
        processor.chat,
        model.vocabulary.offset,
        config.mixture,
        config.row_length,
        config.num_steps * config.global_batch_size,
        config.seed,
        model.config.context_length,
        config.packing,
        config.global_batch_size,
    )


def _last_checkpoint(config: MLLMPhaseConfig) -> Checkpoint | None:
    """The newest whole checkpoint of the run in `config.out`.

    Raises:
        UserError: if the run had other settings, or its checkpoints are damaged.
    """
    last = newest(config.out / "checkpoints")
    saved = config.out / "config.yaml"
    if last is not None and saved.is_file():
        then = to_dict(load_config(MLLMPhaseConfig, saved))
        # These spread the same steps otherwise, as another number of ranks may ask for.
        free = {name: getattr(config, name) for name in ("micro_batch_size", "num_workers")}
        refuse_other_settings(config.out / "checkpoints", config, then | free)
    return last


def _arguments(config: MLLMPhaseConfig, universal: bool = False) -> TrainingArguments:
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    use_cpu = config.use_cpu or not torch.cuda.is_available()
    micro = config.micro_batch_size
    if micro is None and not use_cpu:
        micro = micro_batch_that_fits(config, world_size)
    micro = micro or max(1, config.global_batch_size // world_size)
    if config.global_batch_size % (micro * world_size):
        raise UserError(
            f"global_batch_size {config.global_batch_size} is not a multiple of micro_batch_size "
            f"{micro} × {world_size} ranks: change one of them."
        )
    refuse_attention(
        config.attention,
        not use_cpu,
        config.bf16,
        config.mixture.shares.question > 0 and config.mixture.several_questions == "branches",
    )
    deepspeed = None
    if config.deepspeed is not None:
        deepspeed = read_deepspeed(config.deepspeed, config, micro, world_size)
        if universal:
            deepspeed["checkpoint"] = {**deepspeed.get("checkpoint", {}), "load_universal": True}
        start_deepspeed(use_cpu)
    return TrainingArguments(
        output_dir=str(config.out / "checkpoints"),
        max_steps=config.num_steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=config.global_batch_size // (micro * world_size),
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.02},
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        adam_beta1=config.betas[0],
        adam_beta2=config.betas[1],
        max_grad_norm=config.max_grad_norm,
        bf16=config.bf16,
        gradient_checkpointing=config.gradient_checkpointing or None,  # None: no warning
        deepspeed=deepspeed,
        use_cpu=use_cpu,
        train_sampling_strategy="sequential",  # the rows are planned in their order
        dataloader_num_workers=config.num_workers,
        remove_unused_columns=False,
        seed=config.seed,
        logging_steps=config.log_every,
        save_strategy="steps",
        save_steps=config.checkpoint_every,
        report_to=[],
        disable_tqdm=True,
        log_level="error",
        ddp_find_unused_parameters=False,
    )


def command(args: argparse.Namespace) -> Path | None:
    """`semhitok train mllm`."""
    try:
        config = load_phase(args.config, args.overrides)
        if config.dry_run:
            dry_run(config, args.config)
            return None
        return train_mllm(config)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
