"""Settings that several evaluations share."""

from typing import Annotated, Literal

from pydantic import BeforeValidator

from runtime.settings import Option, Settings
from runtime.value_types import Names, split_names

Crop = Literal["adm", "shorter-side", "stretch"]
"""How a picture becomes square; see `eval.measures.image_source.CROPS`."""


class SetDistanceSettings(Settings):
    """Distances between two sets of images, by the features of a network."""

    network: Names = []
    """Feature networks of set distances: inception (FID), inception-clean (with clean-fid's
    resize), efficientnet-lite0, or a CLIP, DINOv2 or like encoder by hub name or folder."""
    distance: Annotated[
        list[Literal["frechet", "kid"]],
        BeforeValidator(split_names),
        Option("NAME,...", commas=True),
    ] = ["frechet"]
    """Distances by them: frechet, kid or both."""
