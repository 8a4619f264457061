"""Settings of `init-mllm`."""

from typing import Any, Literal

from pydantic import NonNegativeFloat, PositiveInt

from mllm.model.sampler import Sampler
from runtime.settings import Seed, Settings
from runtime.value_types import FolderName, FolderOrURL, ModelFolder, OutputFolder


class InitSettings(Settings):
    """`init-mllm`: a language model that knows image codes, saved once, before training."""

    tokenizer: ModelFolder
    """Folder of the image tokenizer; it is copied into the model."""
    out: OutputFolder
    """Folder of the new model."""
    llm: FolderName | None = None
    """Folder or hub name of a pre-trained causal LM, or a GGUF file of one, which is dequantised to
    float32 (needs the package `gguf`); none builds one from `text_config`."""
    text_config: dict[str, Any] = {}
    """Fields of the LM's config, `model_type` among them, when none is pre-trained; with `llm`, its
    published sizes, which `semhitok plan` reads before anything is downloaded."""
    text_data: list[FolderOrURL] = []
    """Prepared folders whose text the vocabulary (sentencepiece) is trained on, likewise."""
    vocab_size: PositiveInt = 1024
    """Upper bound of that vocabulary."""
    image_input: Literal["adapter", "rows"] = "adapter"
    """How image tokens enter: through an adapter on their code vectors, or a row for each code."""
    image_head: Literal["hierarchical", "flat"] = "hierarchical"
    """How image tokens leave: K semantic codes, then M pixel codes, or all K·M at once."""
    new_weights: Literal["codebooks", "random"] = "codebooks"
    """What the weights around image tokens begin as; see `mllm.init.start_from_codebooks`."""
    image_positions: Literal["none", "grid"] = "none"
    """"grid" adds learned row and column embeddings to image tokens; "none" is the paper's."""
    z_loss_weight: NonNegativeFloat = 0.0
    """Weight of (log Z)² of text scores in the loss, against drifting scores (UniTok: 5e-5)."""
    planned_tokenizer: dict[str, Any] = {}
    """Fields of the image tokenizer's config that `semhitok plan` uses while the folder `tokenizer`
    does not exist; the default is the paper's size."""
    sampler: Sampler = Sampler()
    """How the model draws unless told otherwise; saved in its config."""
    seed: Seed = 0
    """Seed of new weights."""
