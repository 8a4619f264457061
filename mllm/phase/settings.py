"""Run settings of the language model's phases."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from mllm.model.sampler import Sampler
from runtime.config import build_config, load_config, merge, override, read_values
from runtime.config_ranges import check_ranges
from runtime.errors import UserError


@dataclass
class InitConfig:
    """`init-mllm`: a language model that knows image codes, saved once, before training."""

    tokenizer: Path
    """Folder of the image tokenizer; it is copied into the model."""
    out: Path
    """Folder of the new model."""
    llm: str | None = None
    """Folder or hub name of a pre-trained causal LM, or a GGUF file of one, which is dequantised to
    float32 (needs the package `gguf`); none builds one from `text_config`."""
    text_config: dict[str, Any] = field(default_factory=dict)
    """Fields of the LM's config, `model_type` among them, when none is pre-trained; with `llm`, its
    published sizes, which `semhitok plan` reads before anything is downloaded."""
    text_data: list[Path] = field(default_factory=list)
    """Prepared folders whose text the sentencepiece vocabulary is trained on, likewise."""
    vocab_size: int = 1024
    """Upper bound of that vocabulary."""
    image_input: Literal["adapter", "rows"] = "adapter"
    """See `UnifiedConfig`."""
    image_head: Literal["hierarchical", "flat"] = "hierarchical"
    """See `UnifiedConfig`."""
    new_weights: Literal["codebooks", "random"] = "codebooks"
    """What the weights around image tokens begin as; see `mllm.init.start_from_codebooks`."""
    image_positions: Literal["none", "grid"] = "none"
    """See `UnifiedConfig`."""
    z_loss_weight: float = 0.0
    """See `UnifiedConfig`."""
    planned_tokenizer: dict[str, Any] = field(default_factory=dict)
    """Fields of the image tokenizer's config that `semhitok plan` takes while the folder
    `tokenizer` is not there; the default is the paper's size."""
    sampler: Sampler = field(default_factory=Sampler)
    """How the model draws unless told otherwise; saved in its config."""
    seed: int = 0
    """Of new weights."""

    def __post_init__(self) -> None:
        draw = partial(check_ranges, self.sampler, "sampler.")
        draw(at_least=0, names=("temperature", "pixel_temperature", "top_k"))
        draw(at_least=0, at_most=1, names=("top_p",))
        draw(at_least=1, names=("num_candidates",))
        draw(names=("guidance_scale",))
        check_ranges(self, at_least=0, names=("z_loss_weight",))
        check_ranges(self, at_least=0, below=2**32, names=("seed",))


@dataclass
class TaskShares:
    """How often each task comes, relative to the others; 0 leaves it out."""

    question: float = 1.0
    """Questions about one image, all of a record's in one document."""
    drawing: float = 1.0
    """An image after its caption."""
    conversation: float = 0.0
    """Several turns about any number of images."""
    text: float = 0.0
    """Plain text, so that the language model keeps its language."""

    def __post_init__(self) -> None:
        names = ("question", "drawing", "conversation", "text")
        check_ranges(self, "mixture.shares.", at_least=0, names=names)
        if not any(getattr(self, name) for name in names):
            raise ValueError("mixture.shares are all 0: give one task a share above 0.")


@dataclass
class MixtureConfig:
    """What the model sees, and how much each label counts."""

    shares: TaskShares = field(default_factory=TaskShares)
    """Of documents, not of tokens."""
    caption_dropout: float = 0.1
    """Share of drawings whose caption is dropped, for guidance (every peer uses 0.1)."""
    several_questions: Literal["branches", "turns"] = "branches"
    """How questions about one image share it: as branches, none of which sees another, or as the
    turns of one conversation, which FlashAttention needs."""
    answer_weight: float = 1.0
    """Weight of one answer in the loss, shared by its tokens."""
    drawing_weight: float = 1.0
    """Weight of one drawing in the loss, shared by its tokens."""
    text_weight: float = 1.0
    """Weight of one plain text in the loss, shared by its tokens."""

    def __post_init__(self) -> None:
        check = partial(check_ranges, self, "mixture.", at_least=0)
        check(at_most=1, names=("caption_dropout",))
        check(names=("answer_weight", "drawing_weight", "text_weight"))


@dataclass
class SourceConfig:
    """One prepared folder of several."""

    data: Path
    """Prepared folder."""
    codes: Path | None = None
    """Codes of its images, by the tokenizer inside the model; none for plain text alone."""
    weight: float = 1.0
    """How often it is taken, relative to the other sources of the same task."""

    def __post_init__(self) -> None:
        check_ranges(self, above=0, names=("weight",))


@dataclass
class PartRates:
    """Learning rate of each part, as a factor of `learning_rate`; 0 freezes the part."""

    image_adapter: float = 1.0
    """What image tokens enter through."""
    image_head: float = 1.0
    """What image tokens leave through: the new rows."""
    layers: float = 1.0
    """The language model's own layers."""
    text_rows: float = 1.0
    """Its embeddings and its head."""

    def __post_init__(self) -> None:
        names = ("image_adapter", "image_head", "layers", "text_rows")
        check_ranges(self, "rates.", at_least=0, names=names)
        if not any(getattr(self, name) for name in names):
            raise ValueError("rates are all 0, so nothing would train: give one part a rate.")


@dataclass
class LoRAConfig:
    """Train small matrices beside the language model's own, which stay as they are.

    The image adapter, the image head and the rows of the tokens around an image train whole.
    """

    rank: int = 16
    """Of the two matrices beside each linear map."""
    alpha: float = 32.0
    """Their product is scaled by alpha / rank."""
    dropout: float = 0.0
    """On what they read."""
    targets: list[str] = field(default_factory=list)
    """Last names of the linear maps, such as q_proj; none for all of the decoder's layers."""
    load_in_4bit: bool = False
    """Hold the frozen matrices in 4 bits while training (QLoRA; needs the package bitsandbytes)."""

    def __post_init__(self) -> None:
        check_ranges(self, "lora.", at_least=1, names=("rank",))
        check_ranges(self, "lora.", above=0, names=("alpha",))
        check_ranges(self, "lora.", at_least=0, below=1, names=("dropout",))


@dataclass
class MLLMPhaseConfig:
    """`train mllm`: questions, drawings, conversations and plain text together."""

    model: Path
    """Model folder to start from, as written by `init-mllm`."""
    out: Path
    """Run folder; the trained model goes to `out/model`."""
    num_steps: int
    """Optimiser steps."""
    global_batch_size: int
    """Packed rows per step over all ranks and accumulation."""
    learning_rate: float
    """Peak learning rate."""
    phase: Literal["align", "pretrain", "sft"] | None = None
    """Which of the file's `phases` this is, where it has several; see `load_phase`."""
    data: Path | None = None
    """Prepared folder, where there is but one; else see `sources`."""
    codes: Path | None = None
    """Codes of its images, by the tokenizer inside the model."""
    sources: list[SourceConfig] = field(default_factory=list)
    """Prepared folders, where there are several."""
    micro_batch_size: int | None = None
    """Rows per forward pass and rank; by default, on a GPU the largest that `plan` says fits, on a
    CPU the global batch divided by the ranks."""
    row_length: int = 2048
    """Tokens per packed row."""
    packing: bool = True
    """Put several documents into a row. Otherwise a row is one document, `row_length` the longest
    that may be, and rows of about the same length come together."""
    attention: Literal["sdpa", "flex", "flash"] = "sdpa"
    """How documents of a row are kept apart; see `mllm.model.attention`."""
    rates: PartRates = field(default_factory=PartRates)
    """Which parts train, and how fast."""
    warmup_steps: int = 50
    """Steps of linear warm-up before the cosine."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """What moves the weights; "muon" takes it for the language model's hidden matrices alone, and
    does not work under DeepSpeed, which cuts matrices up."""
    weight_decay: float = 0.05
    """Weight decay."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW momentum terms."""
    max_grad_norm: float = 1.0
    """Gradient clipping by global norm."""
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    """See `MixtureConfig`."""
    lora: LoRAConfig | None = None
    """See `LoRAConfig`; by default the whole language model trains."""
    bf16: bool = False
    """Train in bfloat16."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass."""
    deepspeed: Path | None = None
    """A DeepSpeed JSON, such as configs/deepspeed/zero2.json."""
    use_cpu: bool = False
    """Train on the CPU although there is a GPU."""
    num_workers: int = 0
    """Processes that build batches, per rank."""
    seed: int = 0
    """Of data order, packing and dropout."""
    log_every: int = 20
    """Steps between two lines of metrics.jsonl."""
    tensorboard: bool = False
    """Also write TensorBoard events."""
    samples_every: int | None = None
    """Steps between two looks at what the model draws and answers, for the folder `samples` and
    TensorBoard; by default none."""
    peak_tflops: float | None = None
    """What one device computes at most in this precision, in 10¹² FLOPs a second (an A100 312, an
    H100 989 in bfloat16), for the share of it that training uses (MFU); by default not said."""
    dry_run: bool = False
    """Build the model without memory, say what would train and how, and stop."""
    checkpoint_every: int = 100
    """Steps between two checkpoints that a killed run resumes from."""

    def __post_init__(self) -> None:
        counts = ("num_steps", "global_batch_size", "micro_batch_size", "row_length")
        every = ("log_every", "checkpoint_every", "samples_every")
        check_ranges(self, at_least=1, names=(*counts, *every))
        check_ranges(self, at_least=0, names=("warmup_steps", "weight_decay", "num_workers"))
        check_ranges(self, above=0, names=("learning_rate", "max_grad_norm", "peak_tflops"))
        if (self.data is None) == (not self.sources):
            raise ValueError("give either data (with codes) or sources, the one or the other.")
        check_ranges(self, at_least=0, below=1, names=("betas",))
        check_ranges(self, at_least=0, below=2**32, names=("seed",))
        if self.optimizer == "muon" and self.lora is not None:
            raise ValueError(
                "optimizer muon is made for whole matrices, not for the thin ones of lora: set "
                "optimizer to adamw, or leave lora out."
            )
        if self.optimizer == "muon" and self.deepspeed is not None:
            raise ValueError(
                "optimizer muon needs whole matrices, which DeepSpeed cuts up: set optimizer to "
                "adamw, or leave deepspeed out."
            )

    @property
    def all_sources(self) -> list[SourceConfig]:
        """`sources`, or the one of `data` and `codes`."""
        if self.data is None:
            return self.sources
        return [SourceConfig(self.data, self.codes)]


def load_phase(path: Path, overrides: Sequence[str] = ()) -> MLLMPhaseConfig:
    """Read a training config, of one phase or of several.

    A file of several has a section for each under `phases`, whose settings go before those of the
    file itself; `phase=align` chooses one.

    Raises:
        UserError: as `load_config`, also for a slip in a section that is not chosen, and if the
            file has phases and none of them is chosen.
    """
    values = read_values(path)
    sections = values.pop("phases", None)
    if sections is None:
        return load_config(MLLMPhaseConfig, path, overrides)
    if not isinstance(sections, dict) or not all(isinstance(s, dict) for s in sections.values()):
        raise UserError(f"{path}: phases must hold a section of settings for each phase")
    merged = {name: merge(values | {"phase": name}, own) for name, own in sections.items()}
    configs = {
        name: build_config(MLLMPhaseConfig, own, f"{path} (phase={name})")
        for name, own in merged.items()
    }
    chosen = [text.partition("=")[2].strip() for text in overrides if text.startswith("phase=")]
    if not chosen or chosen[-1] not in configs:
        given = f", not {chosen[-1]}" if chosen else ""
        raise UserError(f"{path} has several phases: add phase={'|'.join(configs)}{given}")
    name = chosen[-1]
    return build_config(
        MLLMPhaseConfig, override(merged[name], overrides), f"{path} (with {' '.join(overrides)})"
    )
