"""The training loop of the tokenizer's phases: accelerate, validation, exact resume.

    semhitok train semantic --config configs/quickstart/semantic.yaml
    torchrun --nproc_per_node 8 -m semhitok train pixel --config FILE

The batch of a step is a function of the seed and the step number alone, and so is the learning
rate: what a checkpoint holds is weights, optimiser, codebook statistics and the random state.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from torch import Tensor
from torch.utils.data import DataLoader

from data_pipelines.images import scale_pixels
from data_pipelines.loading.augment import augment
from data_pipelines.loading.batches import StepBatches
from data_pipelines.loading.dataset import PreparedDataset
from data_pipelines.loading.image_dataset import PreparedImages
from runtime.config import load_config
from runtime.errors import UserError
from runtime.metrics_log import MetricsLog, read_metrics
from runtime.progress import Progress
from runtime.run_folder import RunDirectory
from tokenizer.losses.perceptual import load_distance
from tokenizer.training.adversary import Adversary
from tokenizer.training.checkpoint import load_checkpoint, save_checkpoint
from tokenizer.training.phase_joint import JointPhase
from tokenizer.training.phase_pixels import DecoderPhase, PixelPhase
from tokenizer.training.phase_semantic import SemanticPhase
from tokenizer.training.phase_teacher import TeacherPhase
from tokenizer.training.settings import (
    DecoderPhaseConfig,
    JointPhaseConfig,
    PixelPhaseConfig,
    SemanticPhaseConfig,
    TeacherPhaseConfig,
    TrainingConfig,
)
from tokenizer.training.train_step import TrainStep, report_bad_steps
from tokenizer.training.validation import Validation
from tokenizer.training.weight_average import WeightAverage

PHASES: dict[str, tuple[Any, Any]] = {
    "teacher": (TeacherPhaseConfig, TeacherPhase),
    "semantic": (SemanticPhaseConfig, SemanticPhase),
    "pixel": (PixelPhaseConfig, PixelPhase),
    "decoder": (DecoderPhaseConfig, DecoderPhase),
    "joint": (JointPhaseConfig, JointPhase),
}

# Of the images that pass through the networks at once before the first step; 16 at 256². Thousands
# of them at once would take more memory than a training step.
START_PIXELS = 2**20


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
    # Else a phase that this process ran before would decide the precision of this one.
    AcceleratorState._reset_state()
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
    dataset = PreparedDataset(config.data, images_only=True)
    phase = PHASES[name][1](config, dataset).to(accelerator.device)
    if training.activation_checkpointing:
        phase.model.activation_checkpointing_enable()
    optimizer = torch.optim.AdamW(
        [p for p in phase.parameters() if p.requires_grad],
        lr=training.learning_rate,
        betas=training.betas,
        weight_decay=training.weight_decay,
    )
    adversary = _adversary(config, accelerator)
    average = WeightAverage(phase, training.ema_decay) if training.ema_decay else None
    validation = _validation(config, phase, accelerator)
    # All that a step depends on beside the phase itself and the random state.
    parts: dict[str, Any] = {"optimizer": optimizer}
    if adversary is not None:
        parts |= adversary.parts()
    if average is not None:
        parts["average"] = average
    checkpoint = Path(config.out) / "checkpoint.pt"
    first_step = load_checkpoint(checkpoint, phase, parts, config)
    # Only now, so that a refused run leaves the folder as it was.
    run = RunDirectory(config.out).start(config, f"train {name}")
    if first_step == 0 and hasattr(config, "codebook"):
        phase.start(_start_batches(dataset, phase.image_size, config, accelerator))
    if training.compile:
        phase.compile()
    wrapped, prepared = accelerator.prepare(phase, optimizer)
    if adversary is not None:
        adversary.prepare()
    train_step = TrainStep(training, accelerator, phase, wrapped, prepared, adversary, average)
    batches = _batches(dataset, phase.image_size, training, first_step, accelerator)
    # A run that died before its first checkpoint starts anew, step 0 and all.
    log = MetricsLog(run.path, resume_step=first_step or -1, tensorboard=training.tensorboard)
    wrapped.train()
    if validation is not None and first_step:
        validation.remember(read_metrics(run.path))
    elif validation is not None and validation.config.before:
        log.write(0, **validation.record(phase.model, name, average, run.path, 0, log))
    with Progress(training.num_steps, name, initial=first_step) as progress:
        for step, batch in enumerate(batches, start=first_step):
            if step and hasattr(config, "codebook") and step == config.codebook.warmup_steps:
                phase.start(_start_batches(dataset, phase.image_size, config, accelerator))
            images = augment(
                scale_pixels(batch.pop("pixels").flatten(0, 1)),
                batch["caption"],
                training.max_shift,
                training.flip,
                seed=(training.seed, step, accelerator.process_index),
            )
            batch["images"] = images.to(accelerator.device)
            values = train_step(step, batch)
            if "skipped" in values:
                report_bad_steps(train_step.bad_steps, dataset, training, run.path)
            done = step + 1
            is_end = done == training.num_steps
            measured: dict[str, float] = {}
            if validation is not None and (done % validation.config.every == 0 or is_end):
                measured = validation.record(phase.model, name, average, run.path, done, log)
            if done % training.log_every == 0 or is_end or measured:
                numbers = {key: float(value) for key, value in values.items()} | measured
                log.write(done, **numbers)
                progress.update(0, loss=numbers["loss"])
            progress.update(1)
            # Not amid skipped steps: a resumed run would count them anew.
            if done % training.checkpoint_every == 0 and not (is_end or train_step.bad_steps):
                if accelerator.is_main_process:
                    save_checkpoint(checkpoint, phase, parts, config, done)
                accelerator.wait_for_everyone()
    log.close()
    if average is not None:
        average.write()
    if accelerator.is_main_process:
        phase.save(model_folder)
        checkpoint.unlink(missing_ok=True)
    accelerator.wait_for_everyone()
    return model_folder


def _adversary(config: Any, accelerator: Accelerator) -> Adversary | None:
    """The discriminator that the phase's loss asks for."""
    adversarial = getattr(getattr(config, "loss", None), "adversarial", None)
    if adversarial is None or adversarial.discriminator is None:
        return None
    return Adversary(adversarial, config.training, accelerator)


def _validation(config: Any, phase: Any, accelerator: Accelerator) -> Validation | None:
    """The held-out images that the config names."""
    settings = getattr(config, "validation", None)
    if settings is None or settings.data is None:
        return None
    loss = getattr(phase, "reconstruction_loss", None)
    distance = loss.distance if loss is not None else None
    if loss is not None and settings.perceptual is not None:
        distance = load_distance(settings.perceptual)
    return Validation(settings, phase.image_size, distance, accelerator)


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
            PreparedImages(dataset, image_size),
            batch_sampler=sampler,
            num_workers=training.num_workers,
            generator=torch.Generator(),  # the global one's state is part of a checkpoint
        )
    )


def _start_batches(
    dataset: PreparedDataset, image_size: int, config: Any, accelerator: Accelerator
) -> Iterator[Tensor]:
    """This rank's share of the images that k-means places the codes by, a few at a time."""
    wanted = min(config.codebook.kmeans_images, len(dataset))
    indices = torch.randperm(
        len(dataset), generator=torch.Generator().manual_seed(config.training.seed)
    )
    # Equal on all ranks, whose vectors are gathered.
    share = max(1, wanted // accelerator.num_processes)
    places = torch.arange(share) + accelerator.process_index * share
    mine = indices[places % len(indices)].tolist()
    at_once = max(1, START_PIXELS // image_size**2)
    for first in range(0, share, at_once):
        part = [dataset.image_tensor(i, image_size) for i in mine[first : first + at_once]]
        yield torch.stack(part).to(accelerator.device)


def command(args: argparse.Namespace) -> Path:
    """`semhitok train {teacher,semantic,pixel,decoder,joint}`."""
    config = load_config(PHASES[args.phase][0], args.config, args.overrides)
    try:
        return train_phase(args.phase, config)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
