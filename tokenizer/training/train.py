"""The training loop of the tokenizer's phases: accelerate, validation, exact resume.

    semhitok train semantic --config configs/quickstart/semantic.yaml
    torchrun --nproc_per_node 8 -m semhitok train pixel --config FILE

The batch of a step is a function of the seed and the step number alone, and so is the learning
rate. A checkpoint holds weights, optimiser, codebook statistics and the random state.
"""

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed

from data_pipelines.loading.batches import StepBatches
from data_pipelines.loading.dataset import PreparedDataset
from runtime.bad_steps import BadSteps
from runtime.errors import UserError
from runtime.memory import memory_errors
from runtime.metrics_log import MetricsLog, read_metrics
from runtime.progress import Progress
from runtime.rank_group import own_group
from runtime.resume import mark_finished, open_run
from runtime.run_folder import start_run
from tokenizer.losses.perceptual import load_distance
from tokenizer.saved.history import phase_record
from tokenizer.saved.model_folder import save_tokenizer
from tokenizer.training.adversary import Adversary
from tokenizer.training.batches import kmeans_batches, step_batches
from tokenizer.training.checkpoint import load_checkpoint, save_checkpoint
from tokenizer.training.memory import require_training_memory
from tokenizer.training.phase_joint import JointPhase
from tokenizer.training.phase_pixels import DecoderPhase, PixelPhase
from tokenizer.training.phase_semantic import SemanticPhase
from tokenizer.training.phase_teacher import TeacherPhase
from tokenizer.training.settings import PhaseSettings
from tokenizer.training.train_step import TrainStep
from tokenizer.training.validation import Validation
from tokenizer.training.weight_average import WeightAverage

CHECKPOINT, MODEL = "checkpoint.pt", "model"

PHASES: dict[str, Any] = {
    "teacher": TeacherPhase,
    "semantic": SemanticPhase,
    "pixel": PixelPhase,
    "decoder": DecoderPhase,
    "joint": JointPhase,
}


def train_phase(settings: PhaseSettings) -> Path:
    """Run a phase from its last checkpoint, or from the start; a finished run stays as it is.

    Returns:
        The folder of the trained model, `out/model`.

    Raises:
        UserError: if settings, data and folders do not fit, training diverges, or another run is
            using the folder.
    """
    out = Path(settings.out)
    checkpoint = out / CHECKPOINT
    start_again = partial(checkpoint.unlink, missing_ok=True) if settings.overwrite else None
    with open_run(out, settings, start_again) as is_finished:
        if is_finished:
            return out / MODEL
        with own_group(), memory_errors("lower training.micro_batch_size"):
            run = _Run(settings)
            first_step = load_checkpoint(checkpoint, run.phase, run.parts, settings)
            # Only now, so that a refused run leaves the folder as it was.
            start_run(out, settings, f"train {settings.phase}")
            run.train(first_step)
            return run.save()


class _Run:
    """A phase and everything that trains it.

    `parts` is, by name, what a step depends on beside the phase and the random state.
    """

    def __init__(self, settings: PhaseSettings):
        self.settings: Any = settings
        self.training = settings.training
        self.out = Path(settings.out)
        self.accelerator = _accelerator(settings)
        set_seed(self.training.seed)
        self.dataset = PreparedDataset(settings.data, images_only=True)
        if not len(self.dataset):
            raise UserError(f"{settings.data} has no images to train on; prepare some first")
        self.phase = PHASES[settings.phase](settings).to(self.accelerator.device)
        if self.training.max_shift >= self.phase.image_size:
            raise UserError(
                f"training.max_shift {self.training.max_shift} moves images of "
                f"{self.phase.image_size} pixels out of sight; lower it"
            )
        if self.training.activation_checkpointing:
            self.phase.model.activation_checkpointing_enable()
        self.optimizer = torch.optim.AdamW(
            [p for p in self.phase.parameters() if p.requires_grad],
            lr=self.training.learning_rate,
            betas=self.training.betas,
            weight_decay=self.training.weight_decay,
        )
        adversarial = getattr(getattr(settings, "loss", None), "adversarial", None)
        self.adversary: Adversary | None = None
        if adversarial is not None and adversarial.discriminator is not None:
            size = self.phase.image_size
            self.adversary = Adversary(adversarial, self.training, size, self.accelerator)
        decay = self.training.ema_decay
        self.average = WeightAverage(self.phase, decay) if decay else None
        self.validation = self._validation()
        require_training_memory(
            self.phase, self.training, self.accelerator.num_processes, self.adversary is not None
        )
        self.parts: dict[str, Any] = {"optimizer": self.optimizer}
        if self.adversary is not None:
            self.parts |= self.adversary.parts()
        if self.average is not None:
            self.parts["average"] = self.average

    def train(self, first_step: int) -> None:
        """Do all steps from `first_step` on."""
        training = self.training
        if first_step == 0:
            self._start_codes()
        if training.compile:
            self.phase.compile()
        wrapped, optimizer = self.accelerator.prepare(self.phase, self.optimizer)
        if self.adversary is not None:
            self.adversary.prepare()
        bad_steps = BadSteps(self.out, self._record_ids)
        parts = (self.phase, wrapped, optimizer, self.adversary, self.average, bad_steps)
        train_step = TrainStep(training, self.accelerator, *parts)
        size = self.phase.image_size
        batches = step_batches(self.dataset, size, training, first_step, self.accelerator)
        # A run that died before its first checkpoint starts again, step 0 and all.
        log = MetricsLog(self.out, resume_step=first_step or -1, tensorboard=training.tensorboard)
        wrapped.train()
        warmup_steps = getattr(getattr(self.settings, "codebook", None), "warmup_steps", 0)
        with log, Progress(training.num_steps, self.settings.phase, initial=first_step) as progress:
            self._measure_start(first_step, log)
            for step, batch in batches:
                if step and step == warmup_steps:
                    self._start_codes()
                values = train_step(step, batch)
                # The weights of a run that ends in skipped steps may be those of one that diverged.
                if bad_steps.are_too_many or (bad_steps.steps and step + 1 == training.num_steps):
                    raise _diverged(bad_steps)
                if numbers := self._log(step + 1, values, log):
                    progress.update(0, loss=numbers["loss"])
                progress.update(1)
                # Not amid skipped steps: a resumed run would start to count them again.
                if (step + 1) % training.checkpoint_every == 0 and not bad_steps.steps:
                    self._save_checkpoint(step + 1)

    def save(self) -> Path:
        """Write the trained model, and delete the checkpoint."""
        folder = self.out / MODEL
        if self.average is not None:
            self.average.write()
        if self.accelerator.is_main_process:
            if isinstance(self.phase, TeacherPhase):
                self.phase.save(folder)
            else:
                save_tokenizer(self.phase.model, folder, phase_record(self.settings, self.dataset))
            mark_finished(self.out, self.settings)
            (self.out / CHECKPOINT).unlink(missing_ok=True)
        self.accelerator.wait_for_everyone()
        return folder

    def _record_ids(self, step: int) -> list[str]:
        training, ids = self.training, self.dataset.ids
        batches = StepBatches(len(self.dataset), training.global_batch_size, training.seed)
        return [ids[i] for i in batches.indices(step - 1)]

    def _start_codes(self) -> None:
        """Start the codebooks by k-means, where the phase trains any."""
        if self.phase.codebooks:
            size, number = self.phase.image_size, self.settings.codebook.kmeans_images
            seed = self.training.seed
            self.phase.start(kmeans_batches(self.dataset, size, number, seed, self.accelerator))

    def _measure_start(self, first_step: int, log: MetricsLog) -> None:
        """Measure before the first step, or take up what was measured before a resume."""
        if self.validation is not None and first_step:
            self.validation.remember(read_metrics(self.out))
        elif self.validation is not None and self.validation.settings.before:
            log.write(0, **self._measure(0, log))

    def _measure(self, done: int, log: MetricsLog) -> dict[str, float]:
        """What validation finds after `done` steps, of the weights that would be saved."""
        assert self.validation is not None
        with self.average.applied() if self.average is not None else nullcontext():
            name = self.settings.phase
            return self.validation.record(self.phase.model, name, self.out, done, log)

    def _log(self, done: int, values: dict[str, Any], log: MetricsLog) -> dict[str, float]:
        """Write what is due after `done` steps; empty where nothing is."""
        is_end = done == self.training.num_steps
        measured: dict[str, float] = {}
        if self.validation is not None and (done % self.validation.settings.every == 0 or is_end):
            measured = self._measure(done, log)
        if not (done % self.training.log_every == 0 or is_end or measured):
            return {}
        numbers = {key: float(value) for key, value in values.items()} | measured
        log.write(done, **numbers)
        return numbers

    def _save_checkpoint(self, done: int) -> None:
        if done == self.training.num_steps:  # the model follows
            return
        if self.accelerator.is_main_process:
            save_checkpoint(self.out / CHECKPOINT, self.phase, self.parts, self.settings, done)
        self.accelerator.wait_for_everyone()

    def _validation(self) -> Validation | None:
        """The held-out images that the settings name."""
        settings = getattr(self.settings, "validation", None)
        if settings is None or settings.data is None:
            return None
        loss = getattr(self.phase, "reconstruction_loss", None)
        distance = loss.distance if loss is not None else None
        if loss is not None and settings.perceptual is not None:
            distance = load_distance(settings.perceptual)
        return Validation(settings, self.phase.image_size, distance, self.accelerator)


def _diverged(bad_steps: BadSteps) -> UserError:
    steps, path = bad_steps.steps, bad_steps.write()
    return UserError(
        f"{len(steps)} steps in a row, up to step {steps[-1]}, had a loss or gradient that is not "
        f"finite, and nothing is saved; {path} names the records of their batches: leave out those "
        f"that are to blame, or lower training.learning_rate, and add overwrite=true"
    )


def _accelerator(settings: PhaseSettings) -> Accelerator:
    training = settings.training
    # Else a phase that this process ran before would decide the precision of this one.
    AcceleratorState._reset_state()
    # Unless told that it is on CPUs, accelerate takes each rank there for a run of its own.
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(), mixed_precision=training.mixed_precision
    )
    if training.global_batch_size % accelerator.num_processes:
        raise UserError(
            f"training.global_batch_size {training.global_batch_size} does not divide over "
            f"{accelerator.num_processes} ranks; choose a multiple of {accelerator.num_processes}"
        )
    return accelerator
