"""What a recipe file holds (see docs/recipes.md); settings of `semhitok run` and `quickstart`."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeFloat, model_validator

from runtime.settings import Option, Settings
from runtime.value_types import ConfigFile, OutputFolder

StepName = Annotated[str, Field(pattern=r"^[\w-][\w.-]*$")]
"""It names a file."""


class Recipe(Settings):
    """Steps that are run in order."""

    title: str
    """Heading of the report."""
    out: Path
    """Folder for everything, unless `--out` names another."""
    disk_gb: NonNegativeFloat = 0.5
    """Free space that the run needs, in GB."""
    targets: dict[str, float] = {}
    """Keys of `summary.json`, each with the value that it should reach."""
    limits: dict[str, float] = {}
    """Keys of `summary.json`, each with the value that it should not exceed."""
    steps: Annotated[dict[StepName, dict[str, Any] | None], Field(min_length=1)]
    """Name of each step, with `run` (the command) and its settings; null leaves it out."""

    @property
    def kept(self) -> dict[str, dict[str, Any]]:
        """The steps that are run."""
        return {name: entry for name, entry in self.steps.items() if entry is not None}

    @model_validator(mode="after")
    def _some_step(self) -> Self:
        if not self.kept:
            raise ValueError("every step is left out; keep one")
        return self


class RunSettings(Settings):
    """`semhitok run`."""

    recipe: Annotated[ConfigFile, Option("RECIPE.yaml", positional=True)]
    """The recipe, such as configs/recipes/quickstart.yaml."""
    overrides: Annotated[list[str], Option("key.sub=value", positional=True)] = []
    """Values over the recipe's, such as steps.teacher.training.num_steps=100."""
    out: OutputFolder | None = None
    """Folder to write (default: the recipe's own)."""
    open: bool | None = None
    """Open the report in a browser (default: only when run from a terminal)."""


class QuickstartSettings(Settings):
    """`semhitok quickstart`."""

    overrides: Annotated[list[str], Option("key.sub=value", positional=True)] = []
    """Values over the recipe's, such as steps.teacher.training.num_steps=100."""
    out: OutputFolder = Path("runs/quickstart")
    """Folder to write."""
    preset: Literal["short", "long"] = "short"
    """About 10 minutes on two cores, or about 40 for better numbers (default: short)."""
    open: bool | None = None
    """Open the report in a browser (default: only when run from a terminal)."""
