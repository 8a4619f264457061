"""The training loop of the tokenizer's phases: accelerate, one optimiser, exact resume.

    semhitok train semantic --config configs/quickstart/semantic.yaml
    torchrun --nproc_per_node 8 -m semhitok train pixel --config FILE

The batch of a step is a function of the seed and the step number alone, and so is the learning
rate: what a checkpoint holds is weights, optimiser, codebook statistics and the random state.
"""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor
from torch.utils.data import DataLoader

from data_pipelines.augment import augment
from data_pipelines.batches import StepBatches
from data_pipelines.dataset import PreparedDataset
from data_pipelines.image_dataset import ImageTensors
from semhitok.config import load_config
from semhitok.errors import UserError
from semhitok.metrics_log import MetricsLog
from semhitok.progress import Progress
from semhitok.run import RunDirectory
from tokenizer.checkpoint import load_checkpoint, save_checkpoint
from tokenizer.phase_joint import JointPhase
from tokenizer.phase_pixels import DecoderPhase, PixelPhase
from tokenizer.phase_semantic import SemanticPhase
from tokenizer.phase_teacher import TeacherPhase
from tokenizer.training_config import (
    DecoderPhaseConfig,
    JointPhaseConfig,
    PixelPhaseConfig,
    SemanticPhaseConfig,
    TeacherPhaseConfig,
    TrainingConfig,
)

PHASES: dict[str, tuple[Any, Any]] = {
    "teacher": (TeacherPhaseConfig, TeacherPhase),
    "semantic": (SemanticPhaseConfig, SemanticPhase),
    "pixel": (PixelPhaseConfig, PixelPhase),
    "decoder": (DecoderPhaseConfig, DecoderPhase),
    "joint": (JointPhaseConfig, JointPhase),
}


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Linear warm-up, then a cosine down to `final_learning_rate` of the peak."""
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    cosine = 0.5 * (1 + math.cos(math.pi * step / config.num_steps))
    floor = config.final_learning_rate
    return config.learning_rate * warmup * (floor + (1 - floor) * cosine)


def train_phase(name: str, config: Any) -> Path:
    """Run one phase from its last checkpoint, or from the start.

    Args:
        name: "teacher", "semantic", "pixel", "decoder" or "joint".
        config: the phase's config.

    Returns:
        The folder of the trained model, `out/model`.
    """
    training: TrainingConfig = config.training
    model_folder = Path(config.out) / "model"
    # Unless told that it is on CPUs, accelerate takes each rank there for a run of its own.
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(), mixed_precision=training.mixed_precision
    )
    if training.global_batch_size % accelerator.num_processes:
        raise UserError(
            f"training.global_batch_size {training.global_batch_size} cannot be shared by "
            f"{accelerator.num_processes} ranks: choose a multiple of {accelerator.num_processes}."
        )
    set_seed(training.seed)
    dataset = PreparedDataset(config.data)
    phase = PHASES[name][1](config, dataset).to(accelerator.device)
    parameters = [p for p in phase.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters,
        lr=training.learning_rate,
        betas=training.betas,
        weight_decay=training.weight_decay,
    )
    checkpoint = Path(config.out) / "checkpoint.pt"
    first_step = load_checkpoint(checkpoint, phase, optimizer, config)
    # Only now, so that a refused run leaves the folder as it was.
    run = RunDirectory(config.out).start(config, f"train {name}")
    if first_step == 0 and hasattr(config, "codebook"):
        phase.start(_start_images(dataset, phase.image_size, config, accelerator))
    wrapped, optimizer = accelerator.prepare(phase, optimizer)
    batches = _batches(dataset, phase.image_size, training, first_step, accelerator)
    log = MetricsLog(run.path, resume_step=first_step, tensorboard=training.tensorboard)
    wrapped.train()
    with Progress(training.num_steps, name, initial=first_step) as progress:
        for step, batch in enumerate(batches, start=first_step):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(training, step)
            images = augment(
                batch["images"],
                batch["caption"],
                training.max_shift,
                training.flip,
                seed=(training.seed, step, accelerator.process_index),
            )
            batch["images"] = images.to(accelerator.device)
            with accelerator.autocast():
                losses = wrapped(batch)
            accelerator.backward(losses["loss"])
            grad_norm = accelerator.clip_grad_norm_(parameters, training.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            moved = phase.after_step()
            done = step + 1
            if done % training.log_every == 0 or done == training.num_steps:
                values = {key: float(value.detach()) for key, value in losses.items()}
                values |= moved | {
                    "grad_norm": float(grad_norm),
                    "learning_rate": learning_rate(training, step),
                }
                if accelerator.is_main_process:
                    log.write(done, **values)
                progress.update(0, loss=values["loss"])
            progress.update(1)
            if done % training.checkpoint_every == 0 and done < training.num_steps:
                if accelerator.is_main_process:
                    save_checkpoint(checkpoint, phase, optimizer, config, done)
                accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        phase.save(model_folder)
        checkpoint.unlink(missing_ok=True)
    accelerator.wait_for_everyone()
    return model_folder


def _batches(
    dataset: PreparedDataset,
    image_size: int,
    training: TrainingConfig,
    first_step: int,
    accelerator: Accelerator,
) -> Iterator[dict]:
    sampler = StepBatches(
        len(dataset),
        training.global_batch_size,
        training.seed,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        start_step=first_step,
        num_steps=training.num_steps,
    )
    return iter(
        DataLoader(
            ImageTensors(dataset, image_size),
            batch_sampler=sampler,
            num_workers=training.num_workers,
        )
    )


def _start_images(
    dataset: PreparedDataset, image_size: int, config: Any, accelerator: Accelerator
) -> Tensor:
    """This rank's share of the images that k-means places the codes by."""
    wanted = min(config.codebook.kmeans_images, len(dataset))
    indices = torch.randperm(
        len(dataset), generator=torch.Generator().manual_seed(config.training.seed)
    )
    share = wanted // accelerator.num_processes
    mine = indices[accelerator.process_index * share :][:share].tolist()
    images = torch.stack([dataset.image_tensor(index, image_size) for index in mine])
    return images.to(accelerator.device)


def command(args: argparse.Namespace) -> Path:
    """`semhitok train {teacher,semantic,pixel,decoder,joint}`."""
    config = load_config(PHASES[args.phase][0], args.config, args.overrides)
    try:
        return train_phase(args.phase, config)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
