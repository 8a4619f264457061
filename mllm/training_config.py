"""Run settings of the language model's phases."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from mllm.drawing import Sampler
from semhitok.config_ranges import check_ranges


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
    image_head: Literal["hierarchical", "flat"] = "hierarchical"
    """See `UnifiedConfig`."""
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
class MixtureConfig:
    """What the model sees, and how much each label counts."""

    question_share: float = 0.5
    """Share of question documents among all; the rest are drawings."""
    caption_dropout: float = 0.1
    """Share of drawings whose caption is dropped, for guidance (every peer uses 0.1)."""
    answer_weight: float = 1.0
    """Weight of one answer in the loss, shared by its tokens."""
    drawing_weight: float = 1.0
    """Weight of one drawing in the loss, shared by its tokens."""

    def __post_init__(self) -> None:
        check = partial(check_ranges, self, "mixture.", at_least=0)
        check(at_most=1, names=("question_share", "caption_dropout"))
        check(names=("answer_weight", "drawing_weight"))


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
    """`train mllm`: questions and drawings together."""

    data: Path
    """Prepared folder with questions and captions."""
    codes: Path
    """Codes of the same records, by the tokenizer inside the model."""
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
    micro_batch_size: int | None = None
    """Rows per forward pass and rank; by default the global batch divided by the ranks."""
    row_length: int = 2048
    """Tokens per packed row."""
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
    checkpoint_every: int = 100
    """Steps between two checkpoints that a killed run resumes from."""

    def __post_init__(self) -> None:
        counts = ("num_steps", "global_batch_size", "micro_batch_size", "row_length")
        check_ranges(self, at_least=1, names=(*counts, "log_every", "checkpoint_every"))
        check_ranges(self, at_least=0, names=("warmup_steps", "weight_decay", "num_workers"))
        check_ranges(self, above=0, names=("learning_rate", "max_grad_norm"))
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
