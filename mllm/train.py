"""Train the unified model with the HF Trainer: questions and drawings in packed rows.

    semhitok train mllm --config configs/quickstart/mllm.yaml
    torchrun --nproc_per_node 2 -m semhitok train mllm --config FILE deepspeed=JSON

The loss of a row does not depend on the rows beside it, so ranks, micro-batches and accumulation
change nothing but speed.
"""

import argparse
import os
import shutil
import warnings
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.trainer import TRAINER_STATE_NAME

from data_pipelines.dataset import PreparedDataset
from mllm.code_check import refuse_wrong_codes
from mllm.load import load_processor
from mllm.lora_phase import load_for_lora
from mllm.optimizer import MuonWithAdamW
from mllm.packing import pack
from mllm.rows import TrainingRows
from mllm.training_config import MLLMPhaseConfig
from semhitok.config import load_config, to_dict
from semhitok.errors import UserError
from semhitok.metrics_log import MetricsLog
from semhitok.progress import Progress
from semhitok.run import RunDirectory, write_json
from tokenizer.checkpoint import refuse_other_settings
from tokenizer.code_shards import CodeStore
from tokenizer.fingerprint import code_fingerprint
from tokenizer.model_folder import whole_folder

_PARTS = {"text_loss": "num_text_labels", "semantic_loss": "num_image_labels"}
_PARTS |= {"pixel_loss": "num_image_labels"}


class UnifiedTrainer(Trainer):
    """The HF Trainer, with the losses of each task kept for the log.

    Args:
        muon: move the language model's hidden matrices by Muon.
    """

    optimizer: Any

    def __init__(self, *args, muon=False, **kwargs):
        super().__init__(*args, **kwargs)
        self.muon = muon
        self.parts: dict[str, float] = {}

    def create_optimizer(self, model=None):
        if self.muon and self.optimizer is None:
            self.optimizer = MuonWithAdamW(
                self.model,
                self.model.language_model,
                self.args.learning_rate,
                (self.args.adam_beta1, self.args.adam_beta2),
                self.args.weight_decay,
            )
        return super().create_optimizer(model)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**inputs)
        for name in (*_PARTS, "num_text_labels", "num_image_labels"):
            self.parts[name] = self.parts.get(name, 0.0) + float(outputs[name])
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def take_parts(self) -> dict[str, float]:
        """Mean losses per label, in nats, since the last call; this rank's."""
        parts, self.parts = self.parts, {}
        return {name: parts[name] / max(1.0, parts[count]) for name, count in _PARTS.items()}


class _Reporter(TrainerCallback):
    """Progress bar and metrics.jsonl, in the words of the other phases."""

    def __init__(self, trainer: UnifiedTrainer, out: Path):
        self.trainer = trainer
        self.out = out
        self.progress: Progress | None = None
        self.log: MetricsLog | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        self.progress = Progress(state.max_steps, "mllm", initial=state.global_step).__enter__()
        if state.is_world_process_zero:
            self.log = MetricsLog(self.out, resume_step=state.global_step)

    def on_step_end(self, args, state, control, **kwargs):
        assert self.progress is not None
        self.progress.update(1)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not logs or "loss" not in logs:
            return
        assert self.progress is not None
        names = ("loss", "grad_norm", "learning_rate")
        values = {name: float(logs[name]) for name in names if name in logs}
        values |= self.trainer.take_parts()
        if self.log is not None:
            self.log.write(state.global_step, **values)
        self.progress.update(0, loss=values["loss"])

    def on_train_end(self, args, state, control, **kwargs):
        assert self.progress is not None
        self.progress.__exit__(None, None, None)
        if self.log is not None:
            self.log.close()


def train_mllm(config: MLLMPhaseConfig) -> Path:
    """Train from `config.model`, or from the last whole checkpoint in `config.out`.

    Returns:
        The folder of the trained model, `out/model`.
    """
    arguments = _arguments(config)
    set_seed(config.seed)
    last = _last_checkpoint(config)
    # Only now, so that a refused run leaves the folder as it was.
    run = RunDirectory(config.out).start(config, "train mllm")
    processor = load_processor(config.model)
    model = load_for_lora(config.model, config.lora, processor.tokenizer)
    records, codes = PreparedDataset(config.data), CodeStore(config.codes)
    with _whole(model.image_tokenizer):
        fingerprint = code_fingerprint(model.image_tokenizer)
    refuse_wrong_codes(codes, records, fingerprint, config)
    rows = TrainingRows(
        records,
        codes,
        processor.chat,
        model.vocabulary.offset,
        config.mixture,
        config.row_length,
        config.num_steps * config.global_batch_size,
        config.seed,
    )
    write_json(run.path / "rows.json", rows.describe())
    pad_token_id = processor.tokenizer.pad_token_id
    trainer = UnifiedTrainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        data_collator=lambda batch: pack(batch, config.row_length, pad_token_id),
        muon=config.optimizer == "muon",
    )
    trainer.remove_callback(PrinterCallback)  # it prints a dictionary between the progress lines
    trainer.add_callback(_Reporter(trainer, run.path))
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    if config.deepspeed is not None:
        assert type(trainer.model_wrapped).__name__ == "DeepSpeedEngine"
    model_folder = run.path / "model"
    with whole_folder(model_folder) as unfinished:
        trainer.save_model(str(unfinished))
        if trainer.is_world_process_zero():
            (unfinished / "training_args.bin").unlink(missing_ok=True)  # a pickle
            model.generation_config.save_pretrained(unfinished)
            processor.save_pretrained(unfinished)
        trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        shutil.rmtree(arguments.output_dir, ignore_errors=True)
    return model_folder


def _last_checkpoint(config: MLLMPhaseConfig) -> Path | None:
    """The newest whole checkpoint of the run in `config.out`.

    Raises:
        UserError: if the run had other settings.
    """
    # The Trainer writes its state last; a killed run may leave a newer folder without it.
    states = (config.out / "checkpoints").glob(f"checkpoint-*/{TRAINER_STATE_NAME}")
    whole = sorted((state.parent for state in states), key=lambda p: int(p.name.split("-")[1]))
    saved = config.out / "config.yaml"
    if not whole:
        return None
    if saved.is_file():
        then = load_config(MLLMPhaseConfig, saved)
        refuse_other_settings(config.out / "checkpoints", config, to_dict(then))
    return whole[-1]


def _whole(module: torch.nn.Module) -> AbstractContextManager:
    """Within it every rank holds whole parameters, which ZeRO-3 has cut up; else no change."""
    if not is_deepspeed_zero3_enabled():
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(list(module.parameters()))


def _arguments(config: MLLMPhaseConfig) -> TrainingArguments:
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    micro = config.micro_batch_size or max(1, config.global_batch_size // world_size)
    if config.global_batch_size % (micro * world_size):
        raise UserError(
            f"global_batch_size {config.global_batch_size} is not a multiple of micro_batch_size "
            f"{micro} × {world_size} ranks: change one of them."
        )
    use_cpu = config.use_cpu or not torch.cuda.is_available()
    if config.deepspeed is not None:
        _start_deepspeed(config.deepspeed, use_cpu)
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
        deepspeed=str(config.deepspeed) if config.deepspeed else None,
        use_cpu=use_cpu,
        train_sampling_strategy="sequential",  # the rows are planned in their order
        dataloader_num_workers=config.num_workers,
        remove_unused_columns=False,
        seed=config.seed,
        logging_steps=config.log_every,
        save_strategy="steps",
        save_steps=config.checkpoint_every,
        save_total_limit=1,
        report_to=[],
        disable_tqdm=True,
        log_level="error",
        ddp_find_unused_parameters=False,
    )


def _start_deepspeed(path: Path, use_cpu: bool) -> None:
    """Start the process group before the Trainer does, which on a CPU must be gloo."""
    if not path.is_file():
        raise UserError(f"The DeepSpeed config {path} does not exist: see configs/deepspeed/.")
    if "RANK" not in os.environ:
        raise UserError(
            "DeepSpeed needs a launcher, also for one process: write `torchrun --nproc_per_node N "
            "-m semhitok` in place of `semhitok`."
        )
    # One deprecation a step, of collectives that DeepSpeed calls.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    if not use_cpu:
        return
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    # Shared-memory collectives would be compiled from C++ at start; gloo needs nothing.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)


def command(args: argparse.Namespace) -> Path:
    """`semhitok train mllm`."""
    try:
        return train_mllm(load_config(MLLMPhaseConfig, args.config, args.overrides))
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
