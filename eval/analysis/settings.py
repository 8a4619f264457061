"""Settings of `semhitok eval` observation, input-ablation and compare, and of `data inspect`."""

from typing import Annotated

from pydantic import Field, PositiveInt, model_validator

from runtime.settings import BatchSize, Option, Seed, Settings
from runtime.value_types import (
    ExistingFolder,
    ExistingPath,
    FolderOrURL,
    ModelFolder,
    NewFile,
    OutputFolder,
)

INPUT_ABLATION = "input ablation"
"""The task in its summary."""


class ObservationSettings(Settings):
    """What is measured; saved beside the results."""

    tokenizer: ModelFolder
    """The image tokenizer."""
    data: FolderOrURL
    """Folder that `semhitok prepare` wrote."""
    out: OutputFolder
    """Folder to write."""
    batch_size: BatchSize = 64
    """Images at once."""
    max_images: PositiveInt | None = None
    """Images to take, evenly spaced (default: all)."""
    shuffles: Annotated[int, Field(gt=0, le=1000)] = 5
    """Random permutations of the codes to compare with."""
    seed: Seed = 0
    """Seed of the permutations, of k-means and of the untrained encoder."""


class InputAblationSettings(Settings):
    """What is measured; saved beside the results."""

    model: ModelFolder
    """The language model."""
    data: FolderOrURL
    """Folder that `semhitok prepare` wrote, with questions."""
    out: OutputFolder
    """Folder to write."""
    max_images: PositiveInt = 200
    """Images to take, evenly spaced, with all their questions."""
    batch_size: BatchSize = 64
    """Images or questions at once."""
    seeds: Annotated[int, Field(ge=0, le=1000)] = 1
    """Drawings of each prompt of the easy-VQA drawing task; 0 leaves them out."""
    seed: Seed = 0
    """Seed of who gets whose codes."""


class CompareSettings(Settings):
    """Which results stand side by side."""

    results: Annotated[list[ExistingPath], Option("DIR", positional=True)]
    """Folders that `semhitok eval` wrote."""
    out: OutputFolder
    """Folder to write."""

    @model_validator(mode="after")
    def _at_least_two(self) -> "CompareSettings":
        if len(self.results) < 2:
            raise ValueError("name at least 2 results to compare")
        return self


class InspectSettings(Settings):
    """Which prepared data to look at, and where to."""

    data: Annotated[ExistingFolder, Option(positional=True)]
    """Folder that `semhitok prepare` wrote."""
    out: NewFile | None = None
    """Page to write (default: DIR/inspect.html)."""
    seed: Seed = 0
    """Decides which records are shown."""
