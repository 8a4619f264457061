"""Settings of the losses on reconstructed images."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt

from runtime.settings import Decay, Fraction, LearningRate, Settings
from runtime.value_types import FolderName


class PerceptualSettings(Settings):
    """Distance between the features that a frozen network computes of two images."""

    network: FolderName | None = None
    """"lpips-vgg", "efficientnet-lite0" (offline), or the folder or hub name of any transformers
    vision encoder, such as facebook/convnext-small-224; null is no perceptual term."""
    weight: NonNegativeFloat = 1.0
    """Weight of the distance."""


class AdversarialSettings(Settings):
    """A discriminator that learns to tell reconstructions from images."""

    discriminator: FolderName | None = None
    """"patchgan", or a frozen network whose features are judged by small heads:
    "efficientnet-lite0", or the folder or hub name of a transformers vision encoder such as
    facebook/dinov2-small; null is no adversarial term."""
    loss: Literal["hinge", "non_saturating"] = "hinge"
    """Loss of discriminator and generator."""
    weight: NonNegativeFloat = 0.1
    """Weight of the generator's adversarial loss; peers take 0.1 to 0.8."""
    start_step: NonNegativeInt = 0
    """First step of the discriminator and the adversarial term; peers wait for 20k steps."""
    warmup_steps: NonNegativeInt = 0
    """Steps over which the weight then grows from 0."""
    learning_rate: LearningRate = 1e-4
    """Peak learning rate of the discriminator, on the generator's schedule."""
    betas: tuple[Decay, Decay] = (0.5, 0.9)
    """Momentum terms of the discriminator's AdamW (VQGAN)."""
    weight_decay: NonNegativeFloat = 0.0
    """Weight decay of the discriminator's AdamW."""
    lecam_weight: NonNegativeFloat = 0.0
    """Weight of the LeCam regulariser (arXiv 2104.03310); peers take 0.001 to 0.05."""
    lecam_decay: Decay = 0.999
    """Weight of the past in LeCam's moving averages of the logits."""
    augment_probability: Fraction = 0.0
    """Probability of each differentiable augmentation of the discriminator's inputs
    (DiffAugment, arXiv 2006.10738)."""
    width: Annotated[int, Field(ge=1, le=1024)] = 64
    """Channels of PatchGAN's first layer, or of the hidden layer of feature heads."""
    num_layers: Annotated[int, Field(ge=1, le=10)] = 3
    """Number of times that PatchGAN halves the image."""


class ReconstructionSettings(Settings):
    """Loss of a reconstruction, on images in [-1, 1]."""

    l1_weight: NonNegativeFloat = 1.0
    """Weight of the mean absolute error."""
    l2_weight: NonNegativeFloat = 1.0
    """Weight of the mean squared error."""
    perceptual: PerceptualSettings = PerceptualSettings()
    """Perceptual distance."""
    adversarial: AdversarialSettings = AdversarialSettings()
    """Discriminator and adversarial loss."""

    @property
    def has_loss(self) -> bool:
        """Whether one of its losses has a weight."""
        perceptual, adversarial = self.perceptual, self.adversarial
        others = (
            perceptual.network is not None and perceptual.weight,
            adversarial.discriminator is not None and adversarial.weight,
        )
        return any((self.l1_weight, self.l2_weight, *others))
