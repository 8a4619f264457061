"""Settings of `semhitok eval all`."""

from pydantic import NonNegativeInt, PositiveInt

from runtime.settings import Settings
from runtime.value_types import FolderOrURL, ModelFolder, OutputFolder


class RunAllSettings(Settings):
    """What a whole evaluation is run with; saved beside its results."""

    model: ModelFolder
    """The language model, which holds its image tokenizer."""
    data: FolderOrURL
    """Folder that `semhitok prepare` wrote, with questions."""
    out: OutputFolder
    """Folder to write."""
    seeds: PositiveInt = 4
    """Drawings of each prompt of the easy-VQA drawing task."""
    max_images: NonNegativeInt = 40
    """Images of the input ablation, with all their questions; 0 leaves it out."""
