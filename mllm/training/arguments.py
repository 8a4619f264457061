"""The HF Trainer's arguments, from the settings of a run."""

import os

import torch
from transformers import TrainingArguments

from mllm.phase.deepspeed_config import read_deepspeed
from mllm.phase.settings import PhaseSettings
from mllm.planning.plan import micro_batch_sizes, micro_batch_that_fits
from mllm.training.checkpoints import CHECKPOINTS
from mllm.training.deepspeed import start_deepspeed
from runtime.errors import UserError
from runtime.memory import available_bytes


def training_arguments(settings: PhaseSettings, universal: bool = False) -> TrainingArguments:
    """Arguments of one rank; under DeepSpeed its process group is started, and `universal` resumes
    from a universal checkpoint.

    Raises:
        UserError: if the batch cannot be divided, or something is asked for that this machine or
            DeepSpeed cannot do.
    """
    num_ranks = int(os.environ.get("WORLD_SIZE", "1"))
    use_cpu = settings.use_cpu or not torch.cuda.is_available()
    micro = _micro_batch_size(settings, num_ranks, use_cpu)
    if settings.attention != "sdpa" and use_cpu:
        raise UserError(
            f"attention {settings.attention} trains only on a GPU; set attention to sdpa"
        )
    deepspeed = None
    if settings.deepspeed is not None:
        deepspeed = read_deepspeed(settings.deepspeed, settings, micro, num_ranks)
        if universal:
            deepspeed["checkpoint"] = {**deepspeed.get("checkpoint", {}), "load_universal": True}
        start_deepspeed(use_cpu)
    return TrainingArguments(
        output_dir=str(settings.out / CHECKPOINTS),
        max_steps=settings.num_steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=settings.global_batch_size // (micro * num_ranks),
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.02},
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        adam_beta1=settings.betas[0],
        adam_beta2=settings.betas[1],
        max_grad_norm=settings.max_grad_norm,
        bf16=settings.bf16,
        gradient_checkpointing=settings.gradient_checkpointing or None,  # None: no warning
        deepspeed=deepspeed,
        use_cpu=use_cpu,
        train_sampling_strategy="sequential",  # the sequences are planned in their order
        dataloader_num_workers=settings.num_workers,
        remove_unused_columns=False,
        seed=settings.seed,
        logging_steps=settings.log_every,
        logging_nan_inf_filter=False,  # it would log 0 for NaN
        save_strategy="steps",
        save_steps=settings.checkpoint_every,
        report_to=[],
        disable_tqdm=True,
        log_level="error",
        ddp_find_unused_parameters=False,
    )


def _micro_batch_size(settings: PhaseSettings, num_ranks: int, use_cpu: bool) -> int:
    """Sequences per forward pass. What a GPU cannot hold it says; a CPU would be killed."""
    if use_cpu:
        ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        return micro_batch_that_fits(settings, num_ranks, available_bytes() // ranks_here)
    if settings.micro_batch_size is not None:
        return micro_batch_sizes(settings, num_ranks)[0]
    device = torch.cuda.current_device()
    memory = torch.cuda.get_device_properties(device).total_memory
    return micro_batch_that_fits(settings, num_ranks, memory)
