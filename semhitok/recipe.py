"""Runs the steps of a recipe in order: train, answer, draw, measure, report.

    semhitok run RECIPE.yaml [--out DIR] [key.sub=value ...]
    semhitok quickstart

Every step is one of the public commands. All steps are checked before the first one starts. A
finished step leaves a mark and is skipped by the next run; an interrupted training step resumes
from its checkpoint.
"""

import difflib
import re
import resource
import secrets
import shutil
import sys
import time
import webbrowser
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from runtime.errors import UserError, one_line
from runtime.files import read_json, write_json
from runtime.resume import run_lock
from runtime.run_folder import start_run
from runtime.settings import Settings, to_dict
from runtime.value_types import planned
from runtime.yaml_values import find_config, read_values, shipped_configs, split_override
from semhitok.command import Command, load
from semhitok.commands import COMMANDS
from semhitok.recipe_settings import QuickstartSettings, Recipe, RunSettings

MARKS = "steps"
OUT = "${out}"


@dataclass(frozen=True)
class Step:
    """One command with its settings, ready to run."""

    name: str
    command: Command
    settings: Settings


def run(settings: RunSettings) -> Path:
    """Run all steps of a recipe that are not done yet.

    Returns:
        The report.

    Raises:
        UserError: for a step that cannot be right, before any is run, and what the steps raise.
    """
    values = read_values(settings.recipe)
    own = [text for text in settings.overrides if not _is_of_a_step(text)]
    recipe = Recipe.from_values(values, own, str(settings.recipe), Path(), {})
    listed = values.get("steps") or {}
    if unknown := [name for name in recipe.steps.keys() - recipe.kept if name not in listed]:
        raise _unknown_step(f"steps.{unknown[0]}=null", listed)
    out = settings.out or recipe.out
    of_steps = [text for text in settings.overrides if _is_of_a_step(text)]
    steps = read_steps(recipe, out, settings.recipe.parent, of_steps)
    _require_space(out, recipe.disk_gb)
    record = to_dict(recipe) | {
        "out": str(out),
        "steps": {s.name: {"run": s.command.name} | to_dict(s.settings) for s in steps},
    }
    report = out / "report.html"
    with run_lock(out):
        done = all(_mark(out, step, steps) is not None for step in steps)
        if not (done and report.is_file() and _record(out) == record):
            _check_keys(recipe, str(settings.recipe))
            start_run(out, record, "semhitok run")
            _run_steps(out, steps)
            report = _write_report(out, recipe)
    for key, value in read_json(out / "summary.json").items():
        if isinstance(value, float | int):
            print(f"{key:<40} {value:.4g}")
    if sys.stdout.isatty() if settings.open is None else settings.open:
        webbrowser.open(report.resolve().as_uri())
    return report


def _check_keys(recipe: Recipe, where: str) -> None:
    """Refuse targets and limits that name no number of a summary."""
    from eval.overview.run_summary import flat_summary  # late: it imports torch

    known = list(flat_summary({}, None, None))
    for section in ("targets", "limits"):
        for key in getattr(recipe, section):
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1) or known[:1]
                raise UserError(
                    f'{where}: {section} names "{key}", which no summary holds; did you mean '
                    f'"{near[0]}"?'
                )


def quickstart(settings: QuickstartSettings) -> Path:
    """Run the shipped recipe; arguments and result as `run`."""
    name = "quickstart" if settings.preset == "short" else "quickstart-long"
    recipe = shipped_configs() / "recipes" / f"{name}.yaml"
    return run(RunSettings(recipe=recipe, **settings.model_dump(exclude={"preset"})))


def read_steps(
    recipe: Recipe, out: Path, folder: Path, overrides: Sequence[str] = ()
) -> list[Step]:
    """The steps with all their settings checked.

    Args:
        recipe: what to run.
        out: folder of the run, in place of `${out}`.
        folder: of the recipe file, to which `config` is relative.
        overrides: `steps.NAME.key=value` strings, read by the types of the step's settings.

    Raises:
        UserError: naming the step. What an earlier step writes counts as being there.
    """
    steps: list[Step] = []
    written: list[Path] = []
    for name, entry in recipe.kept.items():
        values = dict(entry)
        words = values.pop("run", None)
        command = COMMANDS.get(words) if isinstance(words, str) else None
        if command is None or words in ("run", "quickstart"):
            raise UserError(
                f'step "{name}" of the recipe: "run" must name a command of semhitok, not {words!r}'
            )
        of_file: dict[str, Any] = {}
        if (config := values.pop("config", None)) is not None:
            config = find_config(str(config), folder)
            of_file = _with_folder(read_values(config), out)
        beside = folder if config is None else config.parent
        prefix = f"steps.{name}."
        own = [_with_folder(t.removeprefix(prefix), out) for t in overrides if t.startswith(prefix)]
        with planned(written, out):
            settings = load(command.settings).from_values(
                of_file, own, f'step "{name}" of the recipe', beside, _with_folder(values, out)
            )
        if (target := getattr(settings, "out", None)) is not None:
            if Path(target) in written:
                raise UserError(
                    f'step "{name}" of the recipe writes to {target}, as one before it does; give '
                    f"it a place of its own"
                )
            written.append(Path(target))
        steps.append(Step(name, command, settings))
    if unknown := [text for text in overrides if text.split(".")[1] not in recipe.kept]:
        raise _unknown_step(unknown[0], recipe.kept)
    return steps


def _unknown_step(override: str, names: Iterable[str]) -> UserError:
    return UserError(f'"{override}" names no step of the recipe; its steps are {", ".join(names)}')


def _is_of_a_step(override: str) -> bool:
    """Whether an override sets one of a step's settings, and not the step or its command."""
    keys, _ = split_override(override)
    return keys[0] == "steps" and len(keys) > 2 and keys[2] not in ("run", "config")


def forget_accelerators() -> None:
    """Let the next step choose its own device and precision, which accelerate keeps otherwise."""
    if "accelerate" in sys.modules:
        from accelerate.state import AcceleratorState, GradientState

        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()


def _record(out: Path) -> dict[str, Any] | None:
    """What `start_run` wrote of the recipe, if it did."""
    path = out / "config.yaml"
    return read_values(path) if path.is_file() else None


def _run_steps(out: Path, steps: list[Step]) -> None:
    marks = out / MARKS
    marks.mkdir(exist_ok=True)
    checked = False  # whether the data that are there serve all steps up to the next `prepare`
    for number, step in enumerate(steps, start=1):
        if _mark(out, step, steps) is not None:
            continue
        prepares = step.command.name == "prepare"
        if not (prepares or checked):
            _check_data(takewhile(lambda s: s.command.name != "prepare", steps[number - 1 :]))
        checked = not prepares
        print(f"[{number}/{len(steps)}] {step.name}", file=sys.stderr, flush=True)
        begun = marks / f"{step.name}.begun"
        resumed = begun.exists()
        begun.touch()
        started = time.monotonic()
        step.command.run(step.settings)
        forget_accelerators()
        unit = 1 if sys.platform == "darwin" else 2**10  # macOS counts bytes, Linux KiB
        write_json(
            marks / f"{step.name}.json",
            {
                "settings": _without_folder(to_dict(step.settings), out),
                "after": _done_before(out, step, steps),
                "id": secrets.token_hex(8),
                "seconds": time.monotonic() - started,
                "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30,
                "resumed": resumed,
            },
        )
        begun.unlink()


def _check_data(steps: Iterable[Step]) -> None:
    """Refuse data that cannot serve a later step now, and not after the hours before it."""
    for step in steps:
        if not step.command.check_data:
            continue
        try:
            load(step.command.check_data)(step.settings)
        except UserError as error:
            key = f"steps.{step.name}"
            raise UserError(
                f'step "{step.name}": {one_line(error)}. Add {key}.KEY=VALUE to set one of its '
                f"values or {key}=null to leave it out, or run captioned-folder.yaml, the recipe "
                f"for images with captions alone."
            ) from error


def _mark(out: Path, step: Step, steps: list[Step]) -> dict[str, Any] | None:
    """What a finished step has left, or None.

    Raises:
        UserError: if it was run with other settings or before an earlier step was run again, or
            what it wrote is gone.
    """
    path = out / MARKS / f"{step.name}.json"
    if not path.is_file():
        return None
    mark = read_json(path)
    again = f"give another --out, or delete {path} and what the step wrote to run it again"
    if not isinstance(mark, dict) or "settings" not in mark:
        raise UserError(f'step "{step.name}" in {out} was run by another version: {again}')
    now = _without_folder(to_dict(step.settings), out)
    for key in sorted(mark["settings"].keys() | now.keys()):
        if mark["settings"].get(key) != now.get(key):
            raise UserError(f'step "{step.name}" in {out} was run with another "{key}": {again}')
    if mark["after"] != _done_before(out, step, steps):
        raise UserError(f'step "{step.name}" in {out} was run before an earlier one: {again}')
    target = getattr(step.settings, "out", None)
    if target is not None and not Path(target).exists():
        raise UserError(
            f'what step "{step.name}" wrote to {target} is gone: put it back, or delete {path} to '
            f"run the step again"
        )
    return mark


def _done_before(out: Path, step: Step, steps: list[Step]) -> dict[str, str]:
    """The id of each finished step before this one."""
    names = [earlier.name for earlier in steps[: steps.index(step)]]
    paths = {name: out / MARKS / f"{name}.json" for name in names}
    return {name: read_json(path)["id"] for name, path in paths.items() if path.is_file()}


def _write_report(out: Path, recipe: Recipe) -> Path:
    from eval.overview.run_report import summarize, write_report

    marks = {name: read_json(out / MARKS / f"{name}.json") for name in recipe.kept}
    write_json(out / "timings.json", {name: mark["seconds"] for name, mark in marks.items()})
    # The time of a killed attempt is not known, and then neither is the whole.
    known = not any(mark["resumed"] for mark in marks.values())
    seconds = sum(mark["seconds"] for mark in marks.values()) if known else None
    summarize(out, seconds, max(mark["peak_memory_gb"] for mark in marks.values()))
    return write_report(out)


def _with_folder(value: Any, out: Path) -> Any:
    """`${out}` replaced in every text of nested values."""
    return _in_texts(value, lambda text: text.replace(OUT, str(out)))


def _without_folder(value: Any, out: Path) -> Any:
    """The folder of the run as `${out}` again, so that a moved run is the same run."""
    inside = re.compile(rf"{re.escape(str(out))}(?=/|$)")
    return _in_texts(value, lambda text: inside.sub(lambda _: OUT, text))


def _in_texts(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _in_texts(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_in_texts(item, change) for item in value]
    return value


def _require_space(out: Path, needed_gb: float) -> None:
    folder = next(place for place in (out, *out.absolute().parents) if place.exists())
    free = shutil.disk_usage(folder).free / 1e9
    if free < needed_gb:
        raise UserError(
            f"{out} is on a disk with {free:.1f} GB free, and the recipe needs {needed_gb:g} GB"
        )
