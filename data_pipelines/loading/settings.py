"""Settings of `semhitok data images`."""

from pydantic import PositiveInt

from runtime.settings import Settings
from runtime.value_types import ExistingFolder, OutputFolder


class ImagesSettings(Settings):
    """Which images to write as files."""

    data: ExistingFolder
    """Folder that `semhitok prepare` wrote."""
    out: OutputFolder
    """Folder to write."""
    max_images: PositiveInt | None = None
    """Images to take, from the first one on (default: all)."""
