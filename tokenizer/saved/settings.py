"""Settings of `export-tokenizer`."""

from typing import Literal

from runtime.settings import Settings
from runtime.value_types import ModelFolder, OutputFolder


class ExportTokenizerSettings(Settings):
    """`semhitok export-tokenizer`."""

    tokenizer: ModelFolder
    """The image tokenizer."""
    half: Literal["encoder", "decoder"]
    """Half to write: the encoder turns images into codes, the decoder codes into images."""
    out: OutputFolder
    """Folder to write."""
