"""Settings of `data inspect`."""

from typing import Annotated

from runtime.settings import Option, Seed, Settings
from runtime.value_types import ExistingFolder, NewFile


class InspectSettings(Settings):
    """Which prepared data to look at, and where to."""

    data: Annotated[ExistingFolder, Option(positional=True)]
    """Folder that `semhitok prepare` wrote."""
    out: NewFile | None = None
    """Page to write (default: DIR/inspect.html)."""
    seed: Seed = 0
    """Decides which records are shown."""
