"""How image codes are chosen from their scores: temperature, cuts, and the strength of guidance.

The settings alone, without torch: the command line, YAML files and Python share them. The choice
itself is in `mllm.drawing.step.choice`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, NonNegativeFloat, NonNegativeInt

from runtime.settings import Fraction, Probability, Settings, build_settings


class Sampler(Settings):
    """How codes are chosen; settings that begin with `pixel_` hold for pixel codes alone."""

    model_config = ConfigDict(frozen=True)

    guidance_scale: float = 3.0
    """How strongly to follow the prompt; 1 is no guidance, at half the cost."""
    guidance_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How guidance rises from 1 at the first patch to its scale at the last; constant is the scale
    everywhere."""
    temperature: NonNegativeFloat = 1.0
    """Spread of the choices; 0 always takes the likeliest code."""
    pixel_temperature: NonNegativeFloat | None = None
    """Temperature of pixel codes, where it differs."""
    top_k: NonNegativeInt = 0
    """Choose among the N likeliest codes; 0 keeps all."""
    pixel_top_k: NonNegativeInt | None = None
    """As `top_k`, for pixel codes."""
    top_p: Probability = 1.0
    """Choose among the likeliest codes that together hold this probability."""
    pixel_top_p: Probability | None = None
    """As `top_p`, for pixel codes."""
    min_p: Fraction = 0.0
    """Choose among the codes at least this fraction as likely as the likeliest."""
    pixel_min_p: Fraction | None = None
    """As `min_p`, for pixel codes."""
    num_candidates: Annotated[int, Field(gt=0, le=1024)] = 1
    """Draw so many images and keep the one in which the model itself best sees the prompt."""

    @property
    def guided(self) -> bool:
        """Whether the model without the prompt has a say at all."""
        return self.guidance_scale != 1

    def for_pixels(self) -> "Sampler":
        """How pixel codes are chosen."""
        names = ("temperature", "top_k", "top_p", "min_p")
        own = {name: getattr(self, f"pixel_{name}") for name in names}
        return self.model_copy(update={n: value for n, value in own.items() if value is not None})


def model_sampler(defaults: Mapping[str, Any], chosen: Sampler | None = None) -> Sampler:
    """A model's own sampler, with what was chosen in its place.

    Args:
        defaults: `image_sampler` of the model's config.
        chosen: of these settings only those that were given count.

    Raises:
        UserError: if the config, which may be written by hand, has an unknown or wrong setting.
    """
    given = {} if chosen is None else chosen.model_dump(exclude_unset=True)
    where = "image_sampler in the model's config.json"
    return build_settings(Sampler, {**defaults, **given}, where)
