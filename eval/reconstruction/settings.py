"""Settings of `semhitok eval reconstruction`."""

from pydantic import PositiveInt

from eval.measures.settings import Crop, SetDistanceSettings
from runtime.settings import BatchSize
from runtime.value_types import FolderName, FolderOrURL, ModelFolder, OutputFolder


class ReconstructionSettings(SetDistanceSettings):
    """What is measured, and by which networks; saved beside the results."""

    tokenizer: ModelFolder
    """The image tokenizer."""
    data: FolderOrURL
    """Folder that `semhitok prepare` wrote, or any folder of images."""
    out: OutputFolder
    """Folder to write."""
    batch_size: BatchSize = 64
    """Images at once; results do not depend on it."""
    resolution: PositiveInt | None = None
    """Pixels of a side (default: the tokenizer's own)."""
    crop: Crop | None = None
    """How a picture becomes square (default: shorter-side for prepared data, else adm)."""
    perceptual: FolderName | None = None
    """Perceptual distance too: lpips-vgg, efficientnet-lite0 or a vision encoder."""
    max_images: PositiveInt | None = None
    """Images to take, evenly spaced (default: all)."""
