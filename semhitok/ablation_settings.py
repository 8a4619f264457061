"""Settings of `semhitok ablate`: which variants are trained, on what, and how often."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from runtime.settings import Settings, Values
from runtime.value_types import FolderName, Names, NumWorkers, OutputFolder, PathName
from runtime.yaml_values import find_config


class Variant(Settings):
    """One row of the table."""

    about: str
    """Description of the variant, for the reader of the table."""
    phases: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]
    """Each phase with the settings that it has in place of its file's, in the order of training;
    a phase starts from the model of the one before."""


class AblationSettings(Settings):
    """`semhitok ablate`."""

    out: OutputFolder
    """Folder for everything."""
    train_source: str
    """Source of `semhitok prepare` to learn from."""
    test_source: str
    """Source to measure on."""
    phases: dict[str, PathName]
    """YAML file of each phase, relative to this file."""
    variants: Annotated[dict[str, Variant], Field(min_length=1)]
    """Name of each variant, in the order of the table."""
    probes: dict[str, list[str]]
    """Properties, each with the words of a caption that are its classes."""
    seeds: Annotated[list[int], Field(min_length=1)] = [0, 1, 2]
    """Seeds of every phase but the teacher's; each variant is trained once for each."""
    teacher: FolderName | None = None
    """Folder or hub name of a vision encoder for all variants and seeds; null trains one, by the
    phase `teacher` with its file's seed."""
    only: Names | None = None
    """Names of the variants to take; null takes all."""
    jobs: Annotated[NumWorkers, Field(gt=0)] = 1
    """Steps that run at a time and share the cores."""

    @classmethod
    def from_values(
        cls, values: Values, overrides: Sequence[str], where: str, folder: Path, above: Values
    ) -> Self:
        """As `Settings.from_values`; the files of the phases are relative to `folder`."""
        settings = super().from_values(values, overrides, where, folder, above)
        phases = {name: find_config(str(file), folder) for name, file in settings.phases.items()}
        return settings.model_copy(update={"phases": phases})

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"a seed is given twice in {self.seeds}")
        for name in self.variants:
            if not name or set(name) & set("/\\ "):
                raise ValueError(f"variants.{name} names a folder: leave out spaces and slashes")
        unknown = [name for name in self.only or () if name not in self.variants]
        if unknown:
            known = ", ".join(self.variants)
            raise ValueError(f"{unknown[0]!r} is not a variant of this ablation: {known} are")
        needed = {phase for variant in self.variants.values() for phase in variant.phases}
        needed |= {"teacher"} if self.teacher is None else set()
        if missing := sorted(needed - self.phases.keys()):
            raise ValueError(f"phases lacks the file of {', '.join(missing)}")
        return self
