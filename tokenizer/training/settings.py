"""Run settings of the tokenizer's training phases; the model has its own config."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from runtime.config_ranges import check_ranges


@dataclass
class TrainingConfig:
    """Settings that every phase shares."""

    num_steps: int
    """Optimiser steps."""
    global_batch_size: int
    """Images per step over all ranks."""
    learning_rate: float
    """Peak learning rate of AdamW."""
    warmup_steps: int = 50
    """Steps of linear warm-up."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """What follows the warm-up."""
    final_learning_rate: float = 0.02
    """Where the cosine ends, as a fraction of the peak."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW momentum terms."""
    weight_decay: float = 1e-4
    """AdamW weight decay."""
    max_grad_norm: float = 1.0
    """Gradient clipping by global norm."""
    micro_batch_size: int | None = None
    """Images per device at once; the rest of the share is accumulated. None is the whole share."""
    ema_decay: float = 0.0
    """Moving average of the weights, such as 0.999, which is what is validated and saved; 0 is
    none. The average starts as the weights of the first step."""
    max_shift: int = 0
    """Augmentation: random shift of each image by up to so many pixels."""
    flip: bool = False
    """Augmentation: mirror half of the images, where no caption says left or right."""
    seed: int = 0
    """Of initial weights, data order, augmentation and codebook start."""
    mixed_precision: Literal["no", "bf16"] = "no"
    """Autocast type of the networks; codebooks stay in float32."""
    activation_checkpointing: bool = False
    """Compute the transformer blocks' activations again in the backward pass: less memory."""
    compile: bool = False
    """Pass the phase through torch.compile: a slow start for faster steps."""
    num_workers: int = 0
    """Processes that decode images, per rank."""
    log_every: int = 20
    """Steps between two lines of metrics.jsonl."""
    checkpoint_every: int = 200
    """Steps between two checkpoints that a killed run resumes from."""
    tensorboard: bool = False
    """Write curves for TensorBoard as well."""

    def __post_init__(self) -> None:
        check = partial(check_ranges, self, "training.")
        check(
            at_least=1,
            names=(
                "num_steps",
                "global_batch_size",
                "micro_batch_size",
                "log_every",
                "checkpoint_every",
            ),
        )
        check(at_least=0, names=("warmup_steps", "weight_decay", "max_shift", "num_workers"))
        check(above=0, names=("learning_rate", "max_grad_norm"))
        check(at_least=0, at_most=1, names=("final_learning_rate",))
        check(at_least=0, below=1, names=("betas", "ema_decay"))
        check(at_least=0, below=2**32, names=("seed",))


@dataclass
class ValidationConfig:
    """Measuring on held-out images while training."""

    data: Path | None = None
    """Prepared folder of held-out images; None is no validation."""
    every: int = 500
    """Steps between two measurements; the last step is always measured."""
    before: bool = False
    """Measure before the first step as well, as step 0."""
    num_images: int = 256
    """Images, over all ranks; the first of the folder."""
    perceptual: str | None = None
    """Network of the perceptual distance to measure, as in `PerceptualConfig`; None is the loss's
    own, if it has one."""
    batch_size: int = 32
    """Images per device at once."""
    num_shown: int = 8
    """Pairs in the image grid."""
    usage_alarm: float = 0.0
    """Warn when a codebook's usage over these images is below this share."""
    usage_fall: float = 0.5
    """Warn as well when it falls below this part of the run's highest so far."""

    def __post_init__(self) -> None:
        check = partial(check_ranges, self, "validation.")
        check(at_least=1, names=("every", "num_images", "batch_size", "num_shown"))
        check(at_least=0, at_most=1, names=("usage_alarm", "usage_fall"))


@dataclass
class CodebookConfig:
    """How a codebook moves."""

    update: Literal["ema", "gradient"] = "ema"
    """By moving averages of the vectors that chose a code (BEiT-v2), or by the codebook loss and
    the optimiser (VQGAN); never both, which diverges."""
    decay: float = 0.99
    """Moving-average weight of the past (BEiT-v2, DualToken); with `gradient`, of hits alone."""
    revive_below: float = 0.05
    """A code with fewer hits per step than this, on average, is placed anew; 0 is never."""
    kmeans_images: int = 256
    """Images, over all ranks, that k-means places the codes by."""
    commitment_weight: float = 0.25
    """Weight of the commitment loss (VQGAN and its heirs)."""
    codebook_weight: float = 1.0
    """Weight of the codebook loss, where `update` is `gradient` (VQGAN and its heirs)."""
    entropy_weight: float = 0.0
    """Weight of the entropy loss, which spreads vectors over all codes of their group; IBQ 0.05."""
    entropy_temperature: float = 0.01
    """Of the soft assignments whose entropy is taken (MaskGIT, IBQ)."""
    warmup_steps: int = 0
    """First steps whose network sees the vectors before quantisation (a remedy for codebooks that
    collapse, LaVIT); the codes follow the encoder, and k-means places them anew at the end."""

    def __post_init__(self) -> None:
        check = partial(check_ranges, self, "codebook.")
        check(at_least=0, below=1, names=("decay",))
        check(at_least=0, names=("revive_below", "commitment_weight", "codebook_weight"))
        check(at_least=0, names=("entropy_weight", "warmup_steps"))
        check(above=0, names=("entropy_temperature",))
        check(at_least=1, names=("kmeans_images",))


@dataclass
class TeacherPhaseConfig:
    """`train teacher`: a SigLIP model on image–caption pairs."""

    data: Path
    """Prepared folder whose records carry captions."""
    out: Path
    """Run folder; the model goes to `out/model`."""
    training: TrainingConfig
    """See `TrainingConfig`."""
    vision: dict[str, Any] = field(default_factory=dict)
    """Fields of `SiglipVisionConfig`."""
    text: dict[str, Any] = field(default_factory=dict)
    """Fields of `SiglipTextConfig`; the vocabulary size follows from the captions."""
    vocab_size: int = 512
    """Upper bound of the caption vocabulary."""
    patch_embedding_start: Literal["random", "cosine"] = "random"
    """Initial patch embedding: transformers' own, or the lowest two-dimensional cosines, from which
    a small model learns shapes in half the steps."""


@dataclass
class FurtherTeacherConfig:
    """One more encoder whose features the semantic codes must predict."""

    teacher: str
    """Folder or hub name of a transformers vision encoder, of any patch size."""
    weight: float = 1.0
    """Of its distillation loss, beside 1 for the first teacher's."""
    layer: int = -1
    """Which hidden state is the target; -1 is the normalised output."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """What it is held and run in."""
    mean: tuple[float, float, float] | None = None
    """Of its pixels in [0, 1]; by default what its folder says, else 0.5."""
    std: tuple[float, float, float] | None = None
    """Deviation of its pixels in [0, 1]; by default what its folder says, else 0.5."""

    def __post_init__(self) -> None:
        check_ranges(self, "further_teachers.", at_least=0, names=("weight",))


@dataclass
class SemanticPhaseConfig:
    """`train semantic`: the semantic codebook, by distillation from a frozen teacher."""

    data: Path
    """Prepared folder of images."""
    out: Path
    """Run folder; the model goes to `out/model`."""
    teacher: str
    """Folder or hub name of a transformers vision encoder."""
    training: TrainingConfig
    """See `TrainingConfig`."""
    model: dict[str, Any] = field(default_factory=dict)
    """Fields of `SemHiTokConfig`; the teacher's part is read from the teacher."""
    codebook: CodebookConfig = field(default_factory=CodebookConfig)
    """See `CodebookConfig`."""
    cosine_weight: float = 1.0
    """Weight of 1 − cosine to the teacher's patch features."""
    l1_weight: float = 1.0
    """Weight of the L1 distance to the teacher's patch features."""
    further_teachers: list[FurtherTeacherConfig] = field(default_factory=list)
    """Encoders that are targets only; `teacher` is also what the semantic encoder reads."""
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    """See `ValidationConfig`."""

    def __post_init__(self) -> None:
        check_ranges(self, "", at_least=0, names=("cosine_weight", "l1_weight"))


@dataclass
class PerceptualConfig:
    """Distance between the features that a frozen network gives for two images."""

    network: str | None = None
    """"lpips-vgg", "efficientnet-lite0" (offline), or the folder or hub name of any transformers
    vision encoder, such as facebook/convnext-small-224; None is no perceptual term."""
    weight: float = 1.0
    """Weight of the distance."""

    def __post_init__(self) -> None:
        check_ranges(self, "loss.perceptual.", at_least=0, names=("weight",))


@dataclass
class AdversarialConfig:
    """A discriminator that learns to tell reconstructions from images."""

    discriminator: str | None = None
    """"patchgan", or a frozen network whose features small heads judge: "efficientnet-lite0", or
    the folder or hub name of a transformers vision encoder such as facebook/dinov2-small; None is
    no adversarial term."""
    loss: Literal["hinge", "non_saturating"] = "hinge"
    """Of discriminator and generator."""
    weight: float = 0.1
    """Of the generator's adversarial loss; peers take 0.1 to 0.8."""
    adaptive: bool = False
    """Scale the weight by the ratio of the reconstruction's gradient to the adversary's at the
    decoder's last layer (VQGAN); with micro-batches, of each micro-batch."""
    adaptive_range: tuple[float, float] = (0.0, 1e4)
    """The ratio is clamped to this (VQGAN)."""
    start_step: int = 0
    """First step of discriminator and adversarial term; peers wait for 20k steps."""
    warmup_steps: int = 0
    """Steps over which the weight then grows from 0."""
    learning_rate: float = 1e-4
    """Peak learning rate of the discriminator; its schedule is the generator's."""
    betas: tuple[float, float] = (0.5, 0.9)
    """Of the discriminator's AdamW (VQGAN)."""
    weight_decay: float = 0.0
    """Of the discriminator's AdamW."""
    r1_weight: float = 0.0
    """Gamma of the R1 penalty, gamma/2 · |gradient at real images|² (arXiv 1801.04406)."""
    r1_every: int = 16
    """Steps between two R1 penalties, each then counted so many times (StyleGAN2)."""
    lecam_weight: float = 0.0
    """Of the LeCam regulariser (arXiv 2104.03310); peers take 0.001 to 0.05."""
    lecam_decay: float = 0.999
    """Of its moving averages of the logits."""
    augment_probability: float = 0.0
    """Chance of each differentiable augmentation of what the discriminator sees
    (DiffAugment, arXiv 2006.10738)."""
    width: int = 64
    """PatchGAN: channels of the first layer. Feature heads: channels of the hidden layer."""
    num_layers: int = 3
    """PatchGAN: halvings of the image."""

    def __post_init__(self) -> None:
        check = partial(check_ranges, self, "loss.adversarial.")
        check(at_least=0, names=("weight", "start_step", "warmup_steps", "weight_decay"))
        check(at_least=0, names=("adaptive_range", "r1_weight", "lecam_weight"))
        check(at_least=0, at_most=1, names=("augment_probability",))
        check(at_least=0, below=1, names=("betas", "lecam_decay"))
        check(above=0, names=("learning_rate",))
        check(at_least=1, names=("r1_every", "width", "num_layers"))
        if self.adaptive_range[0] > self.adaptive_range[1]:
            raise ValueError(
                f"loss.adversarial.adaptive_range goes from low to high, not "
                f"{list(self.adaptive_range)}."
            )


@dataclass
class PixelLossConfig:
    """Reconstruction terms, on images in [-1, 1]."""

    l1_weight: float = 1.0
    """Weight of the mean absolute error."""
    l2_weight: float = 1.0
    """Weight of the mean squared error."""
    perceptual: PerceptualConfig = field(default_factory=PerceptualConfig)
    """See `PerceptualConfig`."""
    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)
    """See `AdversarialConfig`."""

    def __post_init__(self) -> None:
        check_ranges(self, "loss.", at_least=0, names=("l1_weight", "l2_weight"))


@dataclass
class PixelPhaseConfig:
    """`train pixel`: the pixel sub-codebooks (SGHC); everything semantic is frozen."""

    data: Path
    """Prepared folder of images."""
    out: Path
    """Run folder; the model goes to `out/model`."""
    tokenizer: Path
    """Model of the semantic phase."""
    training: TrainingConfig
    """See `TrainingConfig`."""
    model: dict[str, Any] = field(default_factory=dict)
    """Fields of `SemHiTokConfig` to set anew, such as another M; the semantic half's stay."""
    start_from_teacher: bool = False
    """Copy the teacher's first layers into the pixel encoder, where their sizes are the same."""
    codebook: CodebookConfig = field(default_factory=CodebookConfig)
    """See `CodebookConfig`."""
    loss: PixelLossConfig = field(default_factory=PixelLossConfig)
    """See `PixelLossConfig`."""
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    """See `ValidationConfig`."""


@dataclass
class DecoderPhaseConfig:
    """`train decoder`: the Enhance Decoder; encoders and both codebooks are frozen."""

    data: Path
    """Prepared folder of images."""
    out: Path
    """Run folder; the model goes to `out/model`."""
    tokenizer: Path
    """Model of the pixel phase."""
    training: TrainingConfig
    """See `TrainingConfig`."""
    model: dict[str, Any] = field(default_factory=dict)
    """Fields of the Enhance Decoder in `SemHiTokConfig` to set anew; the codes stay."""
    start_from_decoder: bool = False
    """Copy the plain decoder into the Enhance Decoder, so that it starts where that one ended."""
    loss: PixelLossConfig = field(default_factory=PixelLossConfig)
    """See `PixelLossConfig`."""
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    """See `ValidationConfig`."""


@dataclass
class JointPhaseConfig:
    """`train joint`: everything but the teacher at once, on summed losses, instead of `semantic`
    and then `pixel`; for comparison, and the only way to train a flat codebook."""

    data: Path
    """Prepared folder of images."""
    out: Path
    """Run folder; the model goes to `out/model`."""
    teacher: str
    """Folder or hub name of a transformers vision encoder."""
    training: TrainingConfig
    """See `TrainingConfig`."""
    model: dict[str, Any] = field(default_factory=dict)
    """Fields of `SemHiTokConfig`; the teacher's part is read from the teacher."""
    codebook: CodebookConfig = field(default_factory=CodebookConfig)
    """Of both codebooks; see `CodebookConfig`."""
    cosine_weight: float = 1.0
    """Weight of 1 − cosine to the teacher's patch features."""
    l1_weight: float = 1.0
    """Weight of the L1 distance to the teacher's patch features."""
    loss: PixelLossConfig = field(default_factory=PixelLossConfig)
    """Of the pixels; see `PixelLossConfig`."""
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    """See `ValidationConfig`."""

    def __post_init__(self) -> None:
        check_ranges(self, "", at_least=0, names=("cosine_weight", "l1_weight"))
