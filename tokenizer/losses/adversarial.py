"""The adversarial game as formulas: losses, ramp, LeCam.

Logits are (B, P), one for each judged position; positive means real.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenizer.losses.settings import AdversarialSettings


def hinge_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """½ · (mean max(0, 1 − real) + mean max(0, 1 + fake)) (arXiv 1705.02894)."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def hinge_generator_loss(fake: Tensor) -> Tensor:
    """−mean fake."""
    return -fake.mean()


def non_saturating_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """½ · (mean −log σ(real) + mean −log(1 − σ(fake))) (arXiv 1406.2661)."""
    return 0.5 * (F.softplus(-real).mean() + F.softplus(fake).mean())


def non_saturating_generator_loss(fake: Tensor) -> Tensor:
    """mean −log σ(fake)."""
    return F.softplus(-fake).mean()


DISCRIMINATOR_LOSSES = {
    "hinge": hinge_discriminator_loss,
    "non_saturating": non_saturating_discriminator_loss,
}
GENERATOR_LOSSES = {"hinge": hinge_generator_loss, "non_saturating": non_saturating_generator_loss}


def ramp(settings: AdversarialSettings, step: int) -> float:
    """Fraction of the adversarial weight at a step: 0 before the start, then a line up to 1."""
    if step < settings.start_step:
        return 0.0
    return min(1.0, (step - settings.start_step + 1) / max(1, settings.warmup_steps))


class LeCam(nn.Module):
    """Keeps real and fake logits near each other's moving averages (arXiv 2104.03310, eq. 4).

    The averages are buffers, so that checkpoints hold them.
    """

    real: Tensor
    fake: Tensor
    num_updates: Tensor

    def __init__(self, decay: float = 0.999):
        super().__init__()
        self.decay = decay
        self.register_buffer("real", torch.zeros(()))
        self.register_buffer("fake", torch.zeros(()))
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))

    def forward(self, real: Tensor, fake: Tensor) -> Tensor:
        """mean max(0, real − average fake)² + mean max(0, average real − fake)².

        It is 0 until there are averages.
        """
        known = (self.num_updates > 0).float()
        above = F.relu(real.float() - self.fake).square().mean()
        below = F.relu(self.real - fake.float()).square().mean()
        return known * (above + below)

    @torch.no_grad()
    def update(self, real: Tensor, fake: Tensor) -> None:
        """Move the averages towards a step's mean logits, equal on all ranks."""
        weight = torch.where(self.num_updates > 0, 1 - self.decay, 1.0)
        self.real.lerp_(real.to(self.real), weight)
        self.fake.lerp_(fake.to(self.fake), weight)
        self.num_updates += 1
