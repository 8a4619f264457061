"""Settings that several evaluations share."""

import os
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from runtime.settings import Option, Settings
from runtime.value_types import Names, split_names

Crop = Literal["adm", "shorter-side", "stretch"]
"""How a picture becomes square; see `eval.measures.image_source.CROPS`."""


def _one_path(value: Any) -> Any:
    """A name that is there as a file or folder is one name, whatever commas it holds."""
    is_path = isinstance(value, str) and any(map(os.path.exists, (value, value.partition(":")[2])))
    return [value] if is_path else value


class SetDistanceSettings(Settings):
    """Distances between two sets of images, by the features of a network."""

    network: Annotated[Names, BeforeValidator(_one_path)] = []
    """Feature networks of set distances: inception (FID), inception-clean (with clean-fid's
    resize), efficientnet-lite0, or a CLIP, DINOv2 or like encoder by hub name or folder."""
    distance: Annotated[
        list[Literal["frechet", "kid"]],
        BeforeValidator(split_names),
        Option("NAME,...", commas=True),
    ] = ["frechet"]
    """Distances by them: frechet, kid or both."""
