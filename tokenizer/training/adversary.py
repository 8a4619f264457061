"""A discriminator beside a training phase: its optimiser, its state, and both sides of the game.

What it draws at random is a function of the seed, the step and an image's place in the global
batch, so ranks, micro-batches and resumed runs see the same augmentations.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tokenizer.losses.adversarial import (
    DISCRIMINATOR_LOSSES,
    GENERATOR_LOSSES,
    LeCam,
    gradient_ratio,
    r1_penalty,
    ramp,
)
from tokenizer.losses.diff_augment import NUM_CHOICES, diff_augment
from tokenizer.losses.discriminators import build_discriminator
from tokenizer.training.schedule import learning_rate
from tokenizer.training.settings import AdversarialConfig, TrainingConfig


class Adversary:
    """Plays against a phase that rebuilds images.

    Args:
        config: see `AdversarialConfig`; its discriminator is not None.
        training: the phase's settings, for seed, batch size and clipping.
        accelerator: wraps discriminator and optimiser.
    """

    def __init__(
        self, config: AdversarialConfig, training: TrainingConfig, accelerator: Accelerator
    ):
        self.config = config
        self.training = training
        self.accelerator = accelerator
        self.discriminator = build_discriminator(config).to(accelerator.device)
        self.lecam = LeCam(config.lecam_decay).to(accelerator.device)
        self.optimizer: Any = torch.optim.AdamW(
            self.discriminator.parameters(),
            lr=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
        )
        self._wrapped: nn.Module = self.discriminator
        self._logits: list[tuple[Tensor, Tensor]] = []

    def parts(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
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
        """Whether the game has begun."""
        return step >= self.config.start_step

    def generator_loss(
        self,
        reconstruction: Tensor,
        reconstruction_loss: Tensor,
        last_layer: nn.Parameter,
        step: int,
        place: int,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted term that the phase adds to its loss, and what to log of it.

        Args:
            reconstruction: (B, 3, H, W), with its graph.
            reconstruction_loss: scalar, with its graph; the adaptive weight compares with it.
            last_layer: the decoder's, where the gradients are compared.
            step: for ramp and augmentation.
            place: of the first image in the global batch.
        """
        # The bare module, its weights switched off: a wrapped one would wait for their gradients.
        self.discriminator.requires_grad_(False)
        with self.accelerator.autocast():
            fake = self.discriminator(self._augment(reconstruction, step, 2, place))
        self.discriminator.requires_grad_(True)
        loss = GENERATOR_LOSSES[self.config.loss](fake.float())
        weight = torch.tensor(self.config.weight * ramp(self.config, step), device=loss.device)
        if self.config.adaptive:
            weight = weight * self._ratio(reconstruction_loss, loss, last_layer)
        logged = {"generator_loss": loss.detach(), "adversarial_weight": weight}
        return weight * loss, logged

    def backward(
        self,
        images: Tensor,
        reconstruction: Tensor,
        step: int,
        place: int,
        share: float,
        is_last: bool,
    ) -> dict[str, Tensor]:
        """Add the gradients of one micro-batch to the discriminator.

        Args:
            images, reconstruction: (B, 3, H, W); the graph of neither is followed.
            step, place: see `generator_loss`.
            share: of the micro-batch in this rank's batch.
            is_last: ranks average their gradients after the last micro-batch.
        """
        penalised = self.config.r1_weight > 0 and step % self.config.r1_every == 0
        images = images.detach().requires_grad_(penalised)
        # One forward pass for both: several before one backward confuse a wrapped module.
        seen = torch.cat(
            [
                self._augment(images, step, 0, place),
                self._augment(reconstruction.detach(), step, 1, place),
            ]
        )
        # The fused attentions have no second derivative, which the penalty's gradient is.
        attention = sdpa_kernel(SDPBackend.MATH) if penalised else nullcontext()
        with self._syncing(is_last):
            with self.accelerator.autocast(), attention:
                logits = self._wrapped(seen)
            real, fake = logits.float().chunk(2)
            loss = DISCRIMINATOR_LOSSES[self.config.loss](real, fake)
            logged = {
                "discriminator_loss": loss.detach(),
                "real_logits": real.detach().mean(),
                "fake_logits": fake.detach().mean(),
            }
            if self.config.lecam_weight > 0:
                lecam = self.lecam(real, fake)
                loss = loss + self.config.lecam_weight * lecam
                logged["lecam_loss"] = lecam.detach()
            if penalised:
                r1 = r1_penalty(real, images)
                loss = loss + self.config.r1_weight * self.config.r1_every * r1
                logged["r1_penalty"] = r1.detach()
            self.accelerator.backward(loss * share)
        self._logits.append((logged["real_logits"] * share, logged["fake_logits"] * share))
        return logged

    def clip(self) -> Tensor:
        """Clip the gradients that are gathered; their norm before."""
        return self.accelerator.clip_grad_norm_(
            self.discriminator.parameters(), self.training.max_grad_norm
        )

    def step(self, step: int) -> None:
        """Move the discriminator, and the averages of its logits."""
        rate = learning_rate(self.training, step, self.config.learning_rate)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        means = torch.stack([torch.stack(pair) for pair in self._logits]).sum(0)
        real, fake = self.accelerator.reduce(means, reduction="mean")
        self.lecam.update(real, fake)
        self.forget()

    def forget(self) -> None:
        """Drop what this step gathered."""
        self._logits.clear()
        self.optimizer.zero_grad()

    def _syncing(self, is_last: bool) -> AbstractContextManager:
        return nullcontext() if is_last else self.accelerator.no_sync(self._wrapped)

    def _augment(self, images: Tensor, step: int, role: int, place: int) -> Tensor:
        """Augment real (role 0) or rebuilt images (1) to learn from, or rebuilt to judge (2)."""
        if not self.config.augment_probability:
            return images
        generator = torch.Generator().manual_seed(hash((self.training.seed, step, role)) % 2**63)
        choices = torch.rand(self.training.global_batch_size, NUM_CHOICES, generator=generator)
        mine = choices[place : place + len(images)]
        return diff_augment(images, mine, self.config.augment_probability)

    def _ratio(self, loss: Tensor, adversarial: Tensor, last_layer: nn.Parameter) -> Tensor:
        gradients = torch.stack(
            [
                torch.autograd.grad(term, last_layer, retain_graph=True)[0]
                for term in (loss, adversarial)
            ]
        )
        # The norm of the mean, not the mean of norms: one process with the joint batch sees it so.
        ours, theirs = self.accelerator.reduce(gradients, reduction="mean")
        return gradient_ratio(ours, theirs, self.config.adaptive_range)
