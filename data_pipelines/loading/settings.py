"""Settings of `data inspect` and `data images`."""

from typing import Annotated

from pydantic import PositiveInt

from runtime.settings import Option, Seed, Settings
from runtime.value_types import ExistingFolder, NewFile, OutputFolder


class InspectSettings(Settings):
    """Which prepared data to look at, and where to."""

    data: Annotated[ExistingFolder, Option(positional=True)]
    """Folder that `semhitok prepare` wrote."""
    out: NewFile | None = None
    """Page to write (default: DIR/inspect.html)."""
    seed: Seed = 0
    """Decides which records are shown."""


class ImagesSettings(Settings):
    """Which images to write as files."""

    data: ExistingFolder
    """Folder that `semhitok prepare` wrote."""
    out: OutputFolder
    """Folder to write."""
    max_images: PositiveInt | None = None
    """Images to take, from the first one on (default: all)."""
