"""Settings of the language model's training phases."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from mllm.data.settings import MixtureSettings, SourceSettings
from runtime.errors import UserError
from runtime.settings import LearningRate, Seed, Settings, Values, build_settings
from runtime.value_types import (
    ConfigFile,
    FolderOrURL,
    ModelFolder,
    NumWorkers,
    OutputFolder,
    anywhere,
)
from runtime.yaml_values import merge

BelowOne = Annotated[float, Field(ge=0, lt=1)]


class LearningRateMultipliers(Settings):
    """What each part's learning rate is, as a factor of `learning_rate`; 0 freezes the part."""

    renamed: ClassVar = {"text_rows": "embed_tokens"}

    image_adapter: NonNegativeFloat = 1.0
    """What image tokens enter through."""
    image_head: NonNegativeFloat = 1.0
    """What image tokens leave through."""
    layers: NonNegativeFloat = 1.0
    """The language model's own layers."""
    embed_tokens: NonNegativeFloat = 1.0
    """Its embeddings of text, and its head, lm_head."""

    @model_validator(mode="after")
    def _something_trains(self) -> "LearningRateMultipliers":
        if not any(dict(self).values()):
            raise ValueError("all multipliers are 0, so nothing would train; raise one")
        return self


class LoRASettings(Settings):
    """Train small matrices beside the language model's own, which stay as they are.

    The image adapter, the image head and the rows of the tokens around an image train whole.
    """

    rank: PositiveInt = 16
    """Rank of the two matrices beside each linear map."""
    alpha: PositiveFloat = 32.0
    """Their product is scaled by alpha / rank."""
    dropout: BelowOne = 0.0
    """Dropout on what they read."""
    targets: list[str] = []
    """Last names of the linear maps, such as q_proj; none is all of the decoder's layers."""
    load_in_4bit: bool = False
    """Hold the frozen matrices in 4 bits while training (QLoRA; needs the package bitsandbytes)."""


class PhaseSettings(Settings):
    """`train mllm`: questions, drawings, conversations and plain text together."""

    renamed: ClassVar = {"rates": "learning_rate_multipliers", "row_length": "max_seq_length"}

    model: ModelFolder
    """Model folder to start from, as written by `init-mllm`."""
    out: OutputFolder
    """Run folder; the trained model goes to `out/model`."""
    num_steps: PositiveInt
    """Optimiser steps."""
    global_batch_size: PositiveInt
    """Sequences per step over all ranks and accumulation."""
    learning_rate: LearningRate
    """Peak learning rate."""
    phase: Literal["align", "pretrain", "sft"] | None = None
    """Which of the file's `phases` this is, where it has several."""
    data: FolderOrURL | None = None
    """Prepared folder, where there is but one; else see `sources`."""
    codes: FolderOrURL | None = None
    """Codes of its images, made by the tokenizer inside the model."""
    sources: list[SourceSettings] = []
    """Prepared folders, where there are several."""
    micro_batch_size: PositiveInt | None = None
    """Sequences per forward pass and rank; by default, on a GPU the largest that `plan` says fits,
    on a CPU the global batch divided by the ranks."""
    max_seq_length: PositiveInt = 2048
    """Tokens of a sequence, into which documents are packed."""
    packing: bool = True
    """Put several documents into a sequence. Otherwise a sequence is one document, `max_seq_length`
    the longest that may be, and sequences of similar length come together."""
    attention: Literal["sdpa", "flex", "flash"] = "sdpa"
    """How documents of a sequence are kept apart; see `mllm.model.attention`."""
    learning_rate_multipliers: LearningRateMultipliers = LearningRateMultipliers()
    """Which parts train, and how fast."""
    warmup_steps: NonNegativeInt = 50
    """Steps of linear warm-up before the cosine."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """What moves the weights; "muon" moves the language model's hidden matrices by Muon and the
    rest by AdamW, and does not work under DeepSpeed, which cuts matrices up."""
    weight_decay: NonNegativeFloat = 0.05
    """Weight decay."""
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.95)
    """Momentum terms of AdamW."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradient clipping by global norm."""
    mixture: MixtureSettings = MixtureSettings()
    """What the model sees, and how much each label counts."""
    lora: LoRASettings | None = None
    """Train LoRA layers; by default the whole language model trains."""
    bf16: bool = False
    """Train in bfloat16."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass."""
    deepspeed: ConfigFile | None = None
    """A DeepSpeed JSON, such as configs/deepspeed/zero2.json."""
    use_cpu: bool = False
    """Train on the CPU although there is a GPU."""
    num_workers: NumWorkers = 0
    """Processes that build batches, per rank."""
    seed: Seed = 0
    """Seed of data order, packing and dropout."""
    log_every: PositiveInt = 20
    """Steps between two lines of metrics.jsonl."""
    tensorboard: bool = False
    """Also write TensorBoard events."""
    samples_every: PositiveInt | None = None
    """Steps between two looks at what the model draws and answers, for the folder `samples` and
    TensorBoard; by default none."""
    peak_tflops: PositiveFloat | None = None
    """What one device computes at most in this precision, in 10¹² FLOPs a second (an A100 312, an
    H100 989 in bfloat16), for the fraction of it that training uses (MFU); by default not said."""
    checkpoint_every: PositiveInt = 100
    """Steps between two checkpoints, from which a killed run resumes."""
    overwrite: bool = False
    """Start again in place of what `out` holds, finished or not."""

    @model_validator(mode="after")
    def _possible(self) -> "PhaseSettings":
        if (self.data is None) == (not self.sources):
            raise ValueError("give either data (with codes) or sources, not both")
        tasks, parts = self.mixture.proportions, dict(self.learning_rate_multipliers)
        draws = self.mixture.drawing_weight * (tasks.drawing + tasks.conversation)
        if not draws and not any(rate for part, rate in parts.items() if part != "image_head"):
            raise ValueError(
                "the image_head alone trains, and no drawing counts; raise another multiplier, or "
                "mixture.proportions.drawing"
            )
        if self.optimizer == "muon":
            reasons = {
                "is made for whole matrices, not for the thin ones of lora": self.lora is not None,
                "needs whole matrices, which DeepSpeed cuts up": self.deepspeed is not None,
                "moves the layers, whose multiplier is 0": self.multipliers["layers"] == 0,
            }
            if reason := next((reason for reason, holds in reasons.items() if holds), None):
                raise ValueError(f"optimizer muon {reason}; set optimizer to adamw")
        if self.attention == "flash":
            if not self.bf16:
                raise ValueError("attention flash computes in bfloat16; set bf16, or another one")
            if self.mixture.proportions.question and self.mixture.several_questions != "turns":
                raise ValueError(
                    "attention flash knows no shared prefixes; set mixture.several_questions to "
                    "turns, or attention to sdpa or flex"
                )
        return self

    @property
    def all_sources(self) -> list[SourceSettings]:
        """`sources`, or the one of `data` and `codes`."""
        if self.data is None:
            return self.sources
        return [SourceSettings.model_construct(data=self.data, codes=self.codes)]  # checked here

    @property
    def multipliers(self) -> dict[str, float]:
        """Learning-rate multiplier of each part."""
        return dict(self.learning_rate_multipliers)

    @property
    def in_4bit(self) -> bool:
        """Whether the frozen matrices are held in 4 bits."""
        return self.lora is not None and self.lora.load_in_4bit

    @classmethod
    def from_values(
        cls, values: Values, overrides: Sequence[str], where: str, folder: Path, above: Values
    ) -> Self:
        """As `Settings.from_values`; of a file with several phases one is chosen.

        Such a file has a section for each under `phases`, whose settings override those of the file
        itself; `phase=align` chooses one.

        Raises:
            UserError: also for a slip in a section that is not chosen, and if none is chosen.
        """
        sections = values.get("phases")
        if sections is None:
            return super().from_values(values, overrides, where, folder, above)
        found = sections.values() if isinstance(sections, dict) else [sections]
        if not all(isinstance(section, dict) for section in found):
            raise UserError(f"{where}: phases must hold a section of settings for each phase")
        common = {key: value for key, value in values.items() if key != "phases"}
        merged = {name: merge({**common, "phase": name}, own) for name, own in sections.items()}
        above = dict(above)
        words = [text.partition("=")[2].strip() for text in overrides if text.startswith("phase=")]
        chosen = [name for name in (above.pop("phase", None), *words) if name is not None]
        for name, own in merged.items():
            with anywhere():  # the phases before it have not run yet
                build_settings(cls, merge(own, above), f"{where} (phase={name})")
        if not chosen or chosen[-1] not in merged:
            given = f", not {chosen[-1]}" if chosen else ""
            raise UserError(f"{where} has several phases; add phase={'|'.join(merged)}{given}")
        return super().from_values(merged[chosen[-1]], overrides, where, folder, above)
