"""Settings of how a codebook trains."""

from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from runtime.settings import Decay, Settings


class CodebookSettings(Settings):
    """How the codes of a codebook move."""

    renamed = {"revive_below": "restart_below"}

    update: Literal["ema", "gradient"] = "ema"
    """Moving averages of the vectors that chose a code (BEiT-v2), or the codebook loss and the
    optimiser (VQGAN); never both, which diverges."""
    decay: Decay = 0.99
    """Weight of the past in the moving averages (BEiT-v2, DualToken); with `gradient` only the
    number of hits is averaged."""
    restart_below: NonNegativeFloat = 0.05
    """A code with fewer hits per step than this, on average, restarts on a random vector; 0 is
    never."""
    kmeans_images: PositiveInt = 256
    """Images, over all ranks, for the k-means start."""
    commitment_weight: NonNegativeFloat = 0.25
    """Weight of the commitment loss (VQGAN and its heirs)."""
    codebook_weight: NonNegativeFloat = 1.0
    """Weight of the codebook loss, where `update` is `gradient` (VQGAN and its heirs)."""
    entropy_weight: NonNegativeFloat = 0.0
    """Weight of the entropy loss, which spreads vectors over all codes of their group; IBQ takes
    0.05."""
    entropy_temperature: PositiveFloat = 0.01
    """Temperature of the soft assignments whose entropy is taken (MaskGIT, IBQ)."""
    warmup_steps: NonNegativeInt = 0
    """First steps in which the network sees the vectors before quantisation (LaVIT's remedy for
    codebooks that collapse); the codes follow the encoder, and k-means starts them again at the
    end."""

    @property
    def has_loss(self) -> bool:
        """Whether one of its losses has a weight."""
        codebook = self.codebook_weight if self.update == "gradient" else 0
        return any((self.commitment_weight, codebook, self.entropy_weight))
