"""What every score of a benchmark's drawings returns, and how it opens them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from data_pipelines.images import open_image
from eval.drawing.layouts import LAYOUTS, Prompt, split_grid


@dataclass
class Scored:
    """Scores of finished drawings."""

    scores: dict[str, dict[str, Any]]
    """Name → `value`, `interval`, and what it is measured on."""
    about: dict[str, Any] = field(default_factory=dict)
    """What the scores depend on, and their details, for the summary."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """One for each picture, or prompt, that was judged: `prompt`, `image`, and what was found."""


Scorer = Callable[[], Scored]
"""Runs once the drawings are there; its networks are loaded before."""


def open_pictures(folder: Path, task: str, prompt: Prompt) -> list[Image.Image]:
    """The drawings of a prompt, a grid taken apart."""
    pictures = [open_image(folder / path) for path in prompt.paths]
    return split_grid(pictures[0]) if LAYOUTS[task].grid else pictures
