"""A discriminator beside a training phase: its optimiser, its state, and both sides of the game.

Its random numbers are a function of the seed, the step and an image's position in the global batch,
so ranks, micro-batches and resumed runs see the same augmentations.
"""

from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from tokenizer.losses.adversarial import (
    DISCRIMINATOR_LOSSES,
    GENERATOR_LOSSES,
    LeCam,
    ramp,
)
from tokenizer.losses.diff_augment import NUM_CHOICES, diff_augment
from tokenizer.losses.discriminators import build_discriminator
from tokenizer.losses.settings import AdversarialSettings
from tokenizer.training.settings import TrainingSettings


class Adversary:
    """Plays against a phase that rebuilds images of `image_size` pixels a side.

    `settings` name a discriminator; `training` is the phase's.
    """

    def __init__(
        self,
        settings: AdversarialSettings,
        training: TrainingSettings,
        image_size: int,
        accelerator: Accelerator,
    ):
        self.settings = settings
        self.training = training
        self.accelerator = accelerator
        self.discriminator = build_discriminator(settings, image_size).to(accelerator.device)
        self.lecam = LeCam(settings.lecam_decay).to(accelerator.device)
        self.optimizer: Any = torch.optim.AdamW(
            self.discriminator.parameters(),
            lr=settings.learning_rate,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
        )
        self._wrapped: nn.Module = self.discriminator
        self._logits: list[tuple[Tensor, Tensor]] = []

    def parts(self) -> dict[str, Any]:
        """What a checkpoint saves, by name."""
        return {
            "discriminator": self.discriminator,
            "discriminator_optimizer": self.optimizer,
            "lecam": self.lecam,
        }

    def prepare(self) -> None:
        """Wrap for several ranks; after the state is loaded."""
        self._wrapped, self.optimizer = self.accelerator.prepare(self.discriminator, self.optimizer)
        self._wrapped.train()

    def plays(self, step: int) -> bool:
        """Whether the discriminator takes part in a step."""
        return step >= self.settings.start_step

    def generator_loss(
        self, reconstruction: Tensor, step: int, position: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted term that the phase adds to its loss, and values for the log.

        Args:
            reconstruction: (B, 3, H, W), with its graph.
            step, position: for the augmentation; position of the first image in the global batch.
        """
        # The bare module, its weights switched off: a wrapped one would wait for their gradients.
        self.discriminator.requires_grad_(False)
        with self.accelerator.autocast():
            fake = self.discriminator(self._augment(reconstruction, step, 2, position))
        self.discriminator.requires_grad_(True)
        loss = GENERATOR_LOSSES[self.settings.loss](fake.float())
        weight = torch.tensor(self.settings.weight * ramp(self.settings, step), device=loss.device)
        logged = {"generator_loss": loss.detach(), "adversarial_weight": weight}
        return weight * loss, logged

    def backward(
        self,
        images: Tensor,
        reconstruction: Tensor,
        step: int,
        position: int,
        fraction: float,
        is_last: bool,
    ) -> dict[str, Tensor]:
        """Add the gradients of one micro-batch to the discriminator.

        Args:
            images, reconstruction: (B, 3, H, W); no gradient flows into either.
            step, position: see `generator_loss`.
            fraction: of this rank's batch that the micro-batch makes.
            is_last: ranks average their gradients after the last micro-batch.
        """
        # One forward pass for both: several before one backward confuse a wrapped module.
        both = enumerate((images.detach(), reconstruction.detach()))
        seen = torch.cat([self._augment(part, step, role, position) for role, part in both])
        with nullcontext() if is_last else self.accelerator.no_sync(self._wrapped):
            with self.accelerator.autocast():
                logits = self._wrapped(seen)
            real, fake = logits.float().chunk(2)
            loss = DISCRIMINATOR_LOSSES[self.settings.loss](real, fake)
            logged = {
                "discriminator_loss": loss.detach(),
                "real_logits": real.detach().mean(),
                "fake_logits": fake.detach().mean(),
            }
            if self.settings.lecam_weight > 0:
                lecam = self.lecam(real, fake)
                loss = loss + self.settings.lecam_weight * lecam
                logged["lecam_loss"] = lecam.detach()
            self.accelerator.backward(loss * fraction)
        self._logits.append((logged["real_logits"] * fraction, logged["fake_logits"] * fraction))
        return logged

    def clip(self) -> Tensor:
        """Clip the accumulated gradients; return their norm before."""
        parameters = self.discriminator.parameters()
        return self.accelerator.clip_grad_norm_(parameters, self.training.max_grad_norm)

    def step(self, step: int) -> None:
        """Move the discriminator, and the averages of its logits."""
        rate = self.training.learning_rate_at(step, self.settings.learning_rate)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        means = torch.stack([torch.stack(pair) for pair in self._logits]).sum(0)
        real, fake = self.accelerator.reduce(means, reduction="mean")
        self.lecam.update(real, fake)
        self.forget()

    def forget(self) -> None:
        """Drop the gradients and logits of this step."""
        self._logits.clear()
        self.optimizer.zero_grad()

    def _augment(self, images: Tensor, step: int, role: int, position: int) -> Tensor:
        """Augment real (role 0) or rebuilt images (1) to learn from, or rebuilt to judge (2)."""
        if not self.settings.augment_probability:
            return images
        generator = torch.Generator().manual_seed(hash((self.training.seed, step, role)) % 2**63)
        choices = torch.rand(self.training.global_batch_size, NUM_CHOICES, generator=generator)
        mine = choices[position : position + len(images)]
        return diff_augment(images, mine, self.settings.augment_probability)
