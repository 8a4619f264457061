"""Settings of `extract-codes` and `reconstruct`."""

from typing import Annotated

from pydantic import Field, PositiveInt

from runtime.settings import Option, Settings
from runtime.value_types import (
    ExistingFile,
    FolderOrURL,
    ModelFolder,
    NumWorkers,
    OutputFolder,
    OutputFolderOrURL,
)


class ExtractCodesSettings(Settings):
    """`semhitok extract-codes`."""

    tokenizer: ModelFolder
    """The image tokenizer."""
    data: FolderOrURL
    """Prepared data, or the URL of it."""
    out: OutputFolderOrURL
    """Folder for shards and manifest, which all nodes share, or the URL of one."""
    num_crops: Annotated[int, Field(ge=1, le=1000)] = 1
    """Crops of each image; the first is the centre."""
    batch_size: PositiveInt = 32
    """Images encoded at once."""
    shard_size: Annotated[int, Field(ge=1, le=100_000)] = 2000
    """Records in a shard."""
    num_workers: NumWorkers | None = None
    """Processes that decode images, for each rank (default: none beside a model on the CPU, up to 8
    beside a GPU)."""
    device: str = "auto"
    """Device such as cpu or cuda; auto takes a GPU where there is one."""


class ReconstructSettings(Settings):
    """`semhitok reconstruct`."""

    tokenizer: ModelFolder
    """The image tokenizer."""
    images: Annotated[list[ExistingFile], Option("IMAGE", positional=True), Field(min_length=1)]
    """Image files."""
    out: OutputFolder
    """Folder to write."""
    resolution: Annotated[int, Field(ge=1, le=16_384)] | None = None
    """Pixels of a side, to which positions are interpolated (default: the tokenizer's own)."""
