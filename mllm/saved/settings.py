"""Settings of the commands that write a model in another form."""

from runtime.settings import Settings
from runtime.value_types import ModelFolder, OutputFolder


class ExportSettings(Settings):
    """`export-llm`."""

    model: ModelFolder
    """A language model with image_head flat and no grid positions."""
    out: OutputFolder
    """Folder to write."""


class MergeSettings(Settings):
    """`merge-lora`."""

    model: ModelFolder
    """The language model with LoRA layers."""
    out: OutputFolder
    """Folder to write."""
