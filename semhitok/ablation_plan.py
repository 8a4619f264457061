"""The steps of an ablation: which phases train each variant, and what variants can share.

The settings of a phase and the step before it decide its result, and their hash names its folder.
Variants with the same first phases share these steps, and a step with other settings is another
step.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import UserError
from runtime.files import fingerprint
from runtime.settings import Settings, build_settings, to_dict
from runtime.value_types import anywhere
from runtime.yaml_values import merge, read_values
from semhitok.ablation_settings import AblationSettings
from semhitok.command import load
from semhitok.commands import COMMANDS

PHASES = ("teacher", "semantic", "pixel", "decoder", "joint")


@dataclass(frozen=True)
class TrainStep:
    """One phase of one variant, or of several that share it."""

    phase: str
    settings: Settings
    folder: Path
    """Its run folder."""
    after: Path | None
    """Folder of the step that must be done first."""

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def mark(self) -> Path:
        """Written when the step is done."""
        return self.folder / "done.json"

    @property
    def name(self) -> str:
        return f"train {self.phase}, {self.folder.parent.name}"


@dataclass(frozen=True)
class MeasureStep:
    """The measurement of one variant and seed."""

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
        """Written when the step is done."""
        return self.folder / "summary.json"

    @property
    def name(self) -> str:
        return f"measure {self.variant}, seed-{self.seed}"


Step = TrainStep | MeasureStep


def plan(settings: AblationSettings) -> list[Step]:
    """All steps, each after the one that it needs, seed by seed.

    Raises:
        UserError: for an unknown phase, or settings that a phase refuses.
    """
    steps: dict[Path, Step] = {}
    teacher, teacher_step = settings.teacher, None
    if teacher is None:
        teacher_step = _train_step(settings, "teacher", settings.out / "teacher", {}, None, {})
        steps[teacher_step.folder] = teacher_step
        teacher = str(teacher_step.model)
    for seed in settings.seeds:
        folder = settings.out / f"seed-{seed}"
        for name in settings.only or settings.variants:
            last = teacher_step
            for number, (phase, values) in enumerate(settings.variants[name].phases.items()):
                source = {"tokenizer": str(last.model)} if number and last else {"teacher": teacher}
                values = merge(values, {"training": {"seed": seed}})
                last = _train_step(settings, phase, folder / phase, source, last, values)
                steps.setdefault(last.folder, last)
            assert last is not None
            measured = _measure_step(settings, name, seed, last)
            steps[measured.folder] = measured
    return list(steps.values())


def _train_step(
    ablation: AblationSettings,
    phase: str,
    folder: Path,
    source: dict[str, str],
    last: TrainStep | None,
    values: dict[str, Any],
) -> TrainStep:
    if phase not in PHASES:
        raise UserError(f"{phase!r} is not a phase of the tokenizer: {', '.join(PHASES)} are")
    settings_class: type[Settings] = load(COMMANDS[f"train {phase}"].settings)
    lacking = [key for key in source if key not in settings_class.model_fields]
    if lacking:
        raise UserError(
            f"the phase {phase} of a variant cannot start from a {lacking[0]}: list the phases in "
            "the order of training, semantic or joint first"
        )
    fixed = {"data": str(ablation.out / "data" / "train"), "out": "."} | source
    file = ablation.phases[phase]
    changed = merge(merge(read_values(file), fixed), values)
    with anywhere():  # earlier steps will have written what it reads
        settings = build_settings(settings_class, changed, str(file))
    # Where files lie does not matter, but what was trained before does.
    known = {key: value for key, value in to_dict(settings).items() if key not in fixed}
    known |= {"source": ablation.train_source, "teacher": ablation.teacher}
    known |= {"after": last.folder.name if last else None}
    folder = folder.with_name(f"{folder.name}-{_digest(known)}")
    settings = settings.model_copy(update={"out": folder})
    return TrainStep(phase, settings, folder, last.folder if last else None)


def _measure_step(settings: AblationSettings, name: str, seed: int, last: TrainStep) -> MeasureStep:
    known = {"of": last.folder.name, "on": settings.test_source, "probes": settings.probes}
    data = settings.out / "data"
    folder = settings.out / f"seed-{seed}" / f"measured-{name}-{_digest(known)}"
    return MeasureStep(
        name, seed, last.model, data / "train", data / "test", settings.probes, folder, last.folder
    )


def _digest(values: Mapping[str, Any]) -> str:
    return fingerprint([json.dumps(values, sort_keys=True)])[:10]
