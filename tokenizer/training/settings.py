"""Run settings of the tokenizer's training phases; the model has a config of its own."""

import math
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from runtime.settings import Decay, Fraction, LearningRate, Option, Seed, Settings
from runtime.value_types import (
    ConfigFile,
    FolderName,
    FolderOrURL,
    ModelFolder,
    NumWorkers,
    OutputFolder,
)
from tokenizer.codebooks.settings import CodebookSettings
from tokenizer.losses.settings import ReconstructionSettings


class TrainingSettings(Settings):
    """Steps, batches, optimiser and checkpoints, the same in every phase."""

    num_steps: PositiveInt
    """Optimiser steps."""
    global_batch_size: PositiveInt
    """Images per step over all ranks."""
    learning_rate: LearningRate
    """Peak learning rate of AdamW."""
    warmup_steps: NonNegativeInt = 50
    """Steps of linear warm-up."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate after the warm-up."""
    final_learning_rate: Fraction = 0.02
    """End of the cosine, as a fraction of the peak."""
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    """Momentum terms of AdamW."""
    weight_decay: NonNegativeFloat = 1e-4
    """Weight decay of AdamW."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradient clipping by global norm."""
    micro_batch_size: PositiveInt | None = None
    """Images per device at once; gradients are accumulated over the others of the step. null is
    all images of the device."""
    ema_decay: Decay = 0.0
    """Decay of a moving average of the weights, such as 0.999, which is then validated and saved;
    0 is no average. It starts as the weights of the first step."""
    max_shift: NonNegativeInt = 0
    """Augmentation: random shift of each image by up to so many pixels."""
    flip: bool = False
    """Augmentation: mirror half of the images, unless the caption says left or right."""
    seed: Seed = 0
    """Seed of initial weights, data order, augmentation and k-means."""
    mixed_precision: Literal["no", "bf16"] = "no"
    """Autocast type of the networks; codebooks stay in float32."""
    activation_checkpointing: bool = False
    """Compute the transformer blocks' activations again in the backward pass: less memory."""
    compile: bool = False
    """Pass the phase through torch.compile: a slow start for faster steps."""
    num_workers: NumWorkers = 0
    """Processes that decode images, per rank."""
    log_every: PositiveInt = 20
    """Steps between two lines of metrics.jsonl."""
    checkpoint_every: PositiveInt = 200
    """Steps between two checkpoints, from which a killed run resumes."""
    tensorboard: bool = False
    """Write curves for TensorBoard as well."""

    def learning_rate_at(self, step: int, peak: float | None = None) -> float:
        """The learning rate as a function of the step alone, so that no checkpoint need hold it.

        A linear warm-up, then a cosine from the peak to `final_learning_rate` of it, or the peak.

        Args:
            step: counted from 0.
            peak: `learning_rate` by default; a discriminator has another on the same schedule.
        """
        peak = self.learning_rate if peak is None else peak
        warmup = min(1.0, (step + 1) / max(1, self.warmup_steps))
        if self.schedule == "constant":
            return peak * warmup
        cosine = 0.5 * (1 + math.cos(math.pi * step / self.num_steps))
        floor = self.final_learning_rate
        return peak * warmup * (floor + (1 - floor) * cosine)


class ValidationSettings(Settings):
    """Measuring on held-out images during training."""

    data: FolderOrURL | None = None
    """Prepared folder of held-out images; null is no validation."""
    every: PositiveInt = 500
    """Steps between two measurements; the last step is always measured."""
    before: bool = False
    """Measure before the first step as well, as step 0."""
    num_images: PositiveInt = 256
    """Images, over all ranks; the first of the folder."""
    perceptual: FolderName | None = None
    """Network of the perceptual distance to measure, as in `loss.perceptual.network`; null is the
    loss's own, if it has one."""
    batch_size: PositiveInt = 32
    """Images per device at once."""
    num_shown: Annotated[int, Field(ge=1, le=100)] = 8
    """Pairs in the image grid."""
    usage_alarm: Fraction = 0.0
    """Warn when the used fraction of a codebook is below this."""
    usage_fall: Fraction = 0.5
    """Warn as well when it falls below this fraction of the run's highest so far."""


class PhaseSettings(Settings):
    """What every phase needs."""

    phase: ClassVar[str]
    """Name of the phase, as in `semhitok train PHASE`."""
    data: FolderOrURL
    """Prepared folder of images."""
    out: OutputFolder
    """Run folder; the model goes to `out/model`."""
    training: TrainingSettings
    """Steps, batches, optimiser and checkpoints."""
    overwrite: bool = False
    """Start again in place of what `out` holds, finished or not."""

    @model_validator(mode="after")
    def _some_loss_counts(self) -> Self:
        found = dict(self)
        counts = [found[name] for name in ("cosine_weight", "l1_weight") if name in found]
        counts += [found[name].has_loss for name in ("codebook", "loss") if name in found]
        if counts and not any(counts):
            raise ValueError("the weight of every loss is 0, so nothing would train; raise one")
        return self


class TeacherPhaseSettings(PhaseSettings):
    """`train teacher`: a SigLIP model on image–caption pairs."""

    phase = "teacher"

    data: FolderOrURL
    """Prepared folder whose records have captions."""
    vision: dict[str, Any] = {}
    """Fields of `SiglipVisionConfig`."""
    text: dict[str, Any] = {}
    """Fields of `SiglipTextConfig`; the vocabulary size follows from the captions."""
    vocab_size: PositiveInt = 512
    """Upper bound of the caption vocabulary."""
    patch_embedding_start: Literal["random", "cosine"] = "random"
    """Initial patch embedding: transformers' own, or the lowest two-dimensional cosines, from which
    a small model learns shapes in half the steps."""


class DistillationPhaseSettings(PhaseSettings):
    """What the phases with a teacher share."""

    teacher: FolderName
    """Folder or hub name of a transformers vision encoder."""
    model: dict[str, Any] = {}
    """Fields of `SemHiTokConfig`; those of the teacher are read from the teacher."""
    codebook: CodebookSettings = CodebookSettings()
    """How the codes move."""
    cosine_weight: NonNegativeFloat = 1.0
    """Weight of 1 − cosine to the teacher's patch features."""
    l1_weight: NonNegativeFloat = 1.0
    """Weight of the L1 distance to the teacher's patch features."""
    validation: ValidationSettings = ValidationSettings()
    """Measuring on held-out images."""


class AuxiliaryTeacherSettings(Settings):
    """One more encoder whose features the semantic codes must predict."""

    teacher: FolderName
    """Folder or hub name of a transformers vision encoder, of any patch size."""
    weight: NonNegativeFloat = 1.0
    """Weight of its distillation loss; that of the first teacher counts 1."""
    layer: int = -1
    """Hidden state that is the target; -1 is the normalised output."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision that it is held and run in."""
    mean: tuple[float, float, float] | None = None
    """Mean of its pixels in [0, 1]; null takes that of its folder, else 0.5."""
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = None
    """Deviation of its pixels in [0, 1]; null takes that of its folder, else 0.5."""


class SemanticPhaseSettings(DistillationPhaseSettings):
    """`train semantic`: the semantic codebook, by distillation from a frozen teacher."""

    phase = "semantic"
    renamed = {"further_teachers": "auxiliary_teachers"}

    auxiliary_teachers: list[AuxiliaryTeacherSettings] = []
    """Encoders that are targets only; the semantic encoder reads `teacher` alone."""


class JointPhaseSettings(DistillationPhaseSettings):
    """`train joint`: everything but the teacher at once, on the sum of the losses, in place of
    `semantic` and then `pixel`; for comparison, and the only way to train a flat codebook."""

    phase = "joint"

    loss: ReconstructionSettings = ReconstructionSettings()
    """Losses on the pixels."""


class PixelPhaseSettings(PhaseSettings):
    """`train pixel`: the pixel sub-codebooks (SGHC); everything semantic is frozen."""

    phase = "pixel"

    tokenizer: ModelFolder
    """Model of the semantic phase."""
    model: dict[str, Any] = {}
    """Fields of `SemHiTokConfig` to change, such as another M; the semantic half keeps its own."""
    codebook: CodebookSettings = CodebookSettings()
    """How the codes move."""
    loss: ReconstructionSettings = ReconstructionSettings()
    """Losses on the pixels."""
    validation: ValidationSettings = ValidationSettings()
    """Measuring on held-out images."""


class DecoderPhaseSettings(PhaseSettings):
    """`train decoder`: the Enhance Decoder; encoders and both codebooks are frozen."""

    phase = "decoder"

    tokenizer: ModelFolder
    """Model of the pixel phase."""
    model: dict[str, Any] = {}
    """Fields of the Enhance Decoder in `SemHiTokConfig` to change; the codes stay."""
    start_from_decoder: bool = False
    """Copy the plain decoder into the Enhance Decoder, so that it starts where that one ended."""
    loss: ReconstructionSettings = ReconstructionSettings()
    """Losses on the pixels."""
    validation: ValidationSettings = ValidationSettings()
    """Measuring on held-out images."""


class DescribeSettings(Settings):
    """`semhitok describe`."""

    tokenizer: ModelFolder | None = None
    """The image tokenizer."""
    config: ConfigFile | None = None
    """YAML of a semantic phase, for the tokenizer that it would train."""
    overrides: Annotated[list[str], Option("key.sub=value", positional=True)] = []
    """Settings in place of the file's."""

    @model_validator(mode="after")
    def _check_source(self) -> "DescribeSettings":
        if (self.tokenizer is None) == (self.config is None):
            raise ValueError("give either a tokenizer or a config")
        if self.overrides and self.config is None:
            raise ValueError("settings such as key=value go with a config, not with a tokenizer")
        return self


PHASE_SETTINGS: dict[str, type[PhaseSettings]] = {
    settings.phase: settings
    for settings in (
        TeacherPhaseSettings,
        SemanticPhaseSettings,
        PixelPhaseSettings,
        DecoderPhaseSettings,
        JointPhaseSettings,
    )
}
