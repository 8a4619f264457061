"""Settings of `semhitok eval all`."""

from typing import Annotated

from pydantic import Field, NonNegativeInt

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
    seeds: Annotated[int, Field(gt=0, le=1000)] = 4
    """Drawings of each prompt of the easy-VQA drawing task."""
    max_images: NonNegativeInt = 40
    """Images of the input ablation, with all their questions; 0 leaves it out."""
