"""One optimiser step of a phase: micro-batches, the adversary, and steps that are not finite."""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from runtime.bad_steps import BadSteps, IdleSteps
from tokenizer.training.adversary import Adversary
from tokenizer.training.settings import TrainingSettings
from tokenizer.training.weight_average import WeightAverage


@dataclass
class TrainStep:
    """Moves a phase, and its adversary where it has one, by one step."""

    training: TrainingSettings
    accelerator: Accelerator
    phase: Any
    """The bare module, with its `model` and `codebooks`."""
    wrapped: nn.Module
    """The same, wrapped for several ranks."""
    optimizer: Any
    adversary: Adversary | None
    average: WeightAverage | None
    bad_steps: BadSteps

    def __post_init__(self) -> None:
        self.idle_steps = IdleSteps(self.training.num_steps)

    def __call__(self, step: int, batch: dict) -> dict[str, Any]:
        """Do step `step` with this rank's part of its batch.

        Returns:
            Values for the log, numbers or scalar tensors of this rank. `skipped` is 1.0 where a
            loss or gradient was not finite on some rank: then nothing has moved on any rank.
        """
        rate = self.training.learning_rate_at(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        adversary = self.adversary
        if adversary is not None and not adversary.plays(step):
            adversary = None
        logged = self._backward(step, batch, adversary)
        parameters, limit = self.phase.parameters(), self.training.max_grad_norm
        values: dict[str, Any] = {"grad_norm": self.accelerator.clip_grad_norm_(parameters, limit)}
        if adversary is not None:
            values["discriminator_grad_norm"] = adversary.clip()
        finite = self._all_finite([logged["loss"], *values.values()])
        values["learning_rate"] = rate
        if not finite:
            self.bad_steps.add(step + 1)
            self.optimizer.zero_grad()
            for part in (*self.phase.codebooks, *([] if adversary is None else [adversary])):
                part.forget()
            return logged | values | {"skipped": 1.0}
        self.bad_steps.steps.clear()
        self.idle_steps.add(float(values["grad_norm"]))
        self.optimizer.step()
        self.optimizer.zero_grad()
        if adversary is not None:
            adversary.step(step)
        for codebook in self.phase.codebooks:
            for name, value in codebook.after_step().items():
                values[name] = values.get(name, 0) + value
        if self.average is not None:
            self.average.update()
        return logged | values

    def _backward(self, step: int, batch: dict, adversary: Adversary | None) -> dict[str, Tensor]:
        """Accumulate the gradients of all micro-batches; return the means of their losses."""
        count = len(batch["images"])
        size = self.training.micro_batch_size or count
        logged: dict[str, Tensor] = {}
        for first in range(0, count, size):
            part = {key: value[first : first + size] for key, value in batch.items()}
            fraction = len(part["images"]) / count
            is_last = first + size >= count
            position = self.accelerator.process_index * count + first
            # Ranks average their gradients after the last micro-batch alone.
            with nullcontext() if is_last else self.accelerator.no_sync(self.wrapped):
                with self.accelerator.autocast():
                    losses = self.wrapped(part)
                reconstruction = losses.pop("reconstruction", None)
                terms = {key: value.detach() for key, value in losses.items()}
                loss = losses["loss"]
                if adversary is not None:
                    term, extra = adversary.generator_loss(reconstruction, step, position)
                    loss = loss + term
                    terms |= extra
                # Multiplying by 1 would still be a kernel and a node of the graph.
                self.accelerator.backward(loss if fraction == 1 else loss * fraction)
            if adversary is not None:
                terms |= adversary.backward(
                    part["images"], reconstruction, step, position, fraction, is_last
                )
            for key, value in terms.items():
                value = value if fraction == 1 else value * fraction
                logged[key] = logged[key] + value if key in logged else value
        return logged

    def _all_finite(self, values: list[Tensor]) -> bool:
        finite = torch.stack([torch.isfinite(value).all() for value in values]).all()
        if self.accelerator.num_processes == 1:
            return bool(finite)
        # The loss is this rank's own, and all ranks must decide alike.
        return bool(self.accelerator.reduce((~finite).float(), reduction="sum") == 0)
