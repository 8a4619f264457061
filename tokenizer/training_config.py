"""Run settings of the tokenizer's training phases; the model has its own config."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from semhitok.config_ranges import check_ranges


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
    final_learning_rate: float = 0.02
    """Where the cosine ends, as a fraction of the peak."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW momentum terms."""
    weight_decay: float = 1e-4
    """AdamW weight decay."""
    max_grad_norm: float = 1.0
    """Gradient clipping by global norm."""
    max_shift: int = 0
    """Augmentation: random shift of each image by up to so many pixels."""
    flip: bool = False
    """Augmentation: mirror half of the images, where no caption says left or right."""
    seed: int = 0
    """Of initial weights, data order, augmentation and codebook start."""
    mixed_precision: Literal["no", "bf16"] = "no"
    """Autocast type of the networks; codebooks stay in float32."""
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
            names=("num_steps", "global_batch_size", "log_every", "checkpoint_every"),
        )
        check(at_least=0, names=("warmup_steps", "weight_decay", "max_shift", "num_workers"))
        check(above=0, names=("learning_rate", "max_grad_norm"))
        check(at_least=0, at_most=1, names=("final_learning_rate",))
        check(at_least=0, below=1, names=("betas",))
        check(at_least=0, below=2**32, names=("seed",))


@dataclass
class CodebookConfig:
    """How a codebook moves."""

    decay: float = 0.99
    """Moving-average weight of the past (BEiT-v2, DualToken)."""
    revive_below: float = 0.05
    """A code with fewer hits per step than this, on average, is placed anew."""
    kmeans_images: int = 256
    """Images, over all ranks, that k-means places the codes by."""
    commitment_weight: float = 0.25
    """Weight of the commitment loss (VQGAN and its heirs)."""

    def __post_init__(self) -> None:
        check = partial(check_ranges, self, "codebook.")
        check(at_least=0, below=1, names=("decay",))
        check(at_least=0, names=("revive_below", "commitment_weight"))
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


@dataclass
class PixelLossConfig:
    """Reconstruction terms, on images in [-1, 1]."""

    l1_weight: float = 1.0
    """Weight of the mean absolute error."""
    l2_weight: float = 1.0
    """Weight of the mean squared error."""


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
    start_from_decoder: bool = False
    """Copy the plain decoder into the Enhance Decoder, so that it starts where that one ended."""
    loss: PixelLossConfig = field(default_factory=PixelLossConfig)
    """See `PixelLossConfig`."""


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
