"""The steps of an ablation: which phases train each variant, and what variants can share.

A step is known by what decides its result: the phase's settings and the step before. Variants that
begin alike share their first steps, and a step with other settings is another step.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.config import to_dict
from runtime.errors import UserError
from runtime.files import fingerprint
from runtime.settings import build_settings
from runtime.value_types import anywhere
from runtime.yaml_values import merge, read_values


@dataclass
class VariantConfig:
    """One row of the table."""

    about: str
    """What the variant is, for the reader of the table."""
    phases: dict[str, dict[str, Any]]
    """Phase → what it sets in place of its file's values; in this order, each on the last one's
    model."""


@dataclass
class AblationConfig:
    """What an ablation compares, on what, and how often."""

    out: Path
    """Folder for everything."""
    train_source: str
    """Source of `semhitok prepare` to learn from."""
    test_source: str
    """Source to measure on."""
    phases: dict[str, Path]
    """Phase → its YAML file, relative to the ablation's own."""
    variants: dict[str, VariantConfig]
    """Name → variant, in the order of the table."""
    probes: dict[str, list[str]]
    """Property → the words of a caption that are its classes."""
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    """Of every phase but the teacher's; each variant is trained once for each."""
    teacher: str | None = None
    """Folder or hub name of a vision encoder for all variants and seeds; null trains one, by the
    phase `teacher` with its file's seed."""

    def __post_init__(self) -> None:
        if not self.variants or not self.seeds:
            raise ValueError("an ablation needs at least one of variants and one of seeds.")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"a seed is given twice in {self.seeds}.")
        for name, variant in self.variants.items():
            if not name or set(name) & set("/\\ "):
                raise ValueError(f"variants.{name} names a folder: leave out spaces and slashes.")
            if not variant.phases:
                raise ValueError(f"variants.{name}.phases is empty: name what trains it.")
        needed = {phase for variant in self.variants.values() for phase in variant.phases}
        needed |= {"teacher"} if self.teacher is None else set()
        missing = sorted(needed - self.phases.keys())
        if missing:
            raise ValueError(f"phases lacks the file of {', '.join(missing)}.")


@dataclass(frozen=True)
class TrainStep:
    """One phase of one variant, or of several that share it."""

    phase: str
    file: Path
    """The phase's YAML."""
    values: dict[str, Any]
    """Settings over it."""
    folder: Path
    """Its run folder, named by the settings."""
    after: Path | None
    """Folder of the step that must be done first."""

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def mark(self) -> Path:
        """Written when all is done."""
        return self.folder / "done.json"


@dataclass(frozen=True)
class MeasureStep:
    """The measuring of one variant and seed."""

    variant: str
    seed: int
    model: Path
    train_data: Path
    test_data: Path
    probes: dict[str, list[str]]
    folder: Path
    after: Path | None

    @property
    def mark(self) -> Path:
        return self.folder / "summary.json"


Step = TrainStep | MeasureStep


def plan(config: AblationConfig, only: Iterable[str] | None = None) -> list[Step]:
    """All steps, each after the one that it needs, seed by seed.

    Args:
        config: with paths that can be opened from here.
        only: names of the variants to take; all by default.

    Raises:
        UserError: for an unknown variant or phase, or settings that a phase refuses.
    """
    names = list(config.variants) if only is None else list(only)
    unknown = [name for name in names if name not in config.variants]
    if unknown:
        raise UserError(
            f"{unknown[0]!r} is not a variant of this ablation: {', '.join(config.variants)} are."
        )
    steps: dict[Path, Step] = {}
    teacher, teacher_step = config.teacher, None
    if teacher is None:
        teacher_step = _train_step(config, "teacher", config.out / "teacher", {}, None, {})
        steps[teacher_step.folder] = teacher_step
        teacher = str(teacher_step.model)
    for seed in config.seeds:
        folder = config.out / f"seed-{seed}"
        for name in names:
            last = teacher_step
            for number, (phase, values) in enumerate(config.variants[name].phases.items()):
                source = {"tokenizer": str(last.model)} if number and last else {"teacher": teacher}
                values = _with_seed(values, seed)
                last = _train_step(config, phase, folder / phase, source, last, values)
                steps.setdefault(last.folder, last)
            assert last is not None
            measured = _measure_step(config, name, seed, last)
            steps[measured.folder] = measured
    return list(steps.values())


def _train_step(
    config: AblationConfig,
    phase: str,
    folder: Path,
    source: dict[str, str],
    last: TrainStep | None,
    values: dict[str, Any],
) -> TrainStep:
    from tokenizer.training.settings import PHASE_SETTINGS

    if phase not in PHASE_SETTINGS:
        phases = ", ".join(PHASE_SETTINGS)
        raise UserError(f"{phase!r} is not a phase of the tokenizer: {phases} are.")
    lacking = [key for key in source if key not in PHASE_SETTINGS[phase].model_fields]
    if lacking:
        raise UserError(
            f"the phase {phase} of a variant cannot start from a {lacking[0]}: list the phases in "
            f"the order of training, semantic or joint first."
        )
    fixed: dict[str, Any] = {"data": str(config.out / "data" / "train"), "out": "."} | source
    values = fixed | values
    with anywhere():  # earlier steps will write what this one reads
        resolved = to_dict(phase_settings(phase, config.phases[phase], values))
    # Where files lie does not matter, but what was trained before does.
    known = {key: value for key, value in resolved.items() if key not in fixed}
    known |= {"source": config.train_source, "teacher": config.teacher}
    known |= {"after": last.folder.name if last else None}
    digest = fingerprint([json.dumps(known, sort_keys=True)])[:10]
    folder = folder.with_name(f"{folder.name}-{digest}")
    values["out"] = str(folder)
    after = last.folder if last else None
    return TrainStep(phase, config.phases[phase], values, folder, after)


def phase_settings(phase: str, file: Path, values: dict[str, Any]) -> Any:
    """Settings of a phase: those of its YAML file, and others over them."""
    from tokenizer.training.settings import PHASE_SETTINGS

    return build_settings(PHASE_SETTINGS[phase], merge(read_values(file), values), str(file))


def _measure_step(config: AblationConfig, name: str, seed: int, last: TrainStep) -> MeasureStep:
    known = [last.folder.name, config.test_source, config.probes]
    digest = fingerprint([json.dumps(known, sort_keys=True)])[:10]
    return MeasureStep(
        variant=name,
        seed=seed,
        model=last.model,
        train_data=config.out / "data" / "train",
        test_data=config.out / "data" / "test",
        probes=config.probes,
        folder=config.out / f"seed-{seed}" / f"measured-{name}-{digest}",
        after=last.folder,
    )


def _with_seed(values: dict[str, Any], seed: int) -> dict[str, Any]:
    training = values.get("training") or {}
    return {**values, "training": {**training, "seed": seed}}
