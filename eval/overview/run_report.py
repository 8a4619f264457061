"""One self-contained page about the run of a recipe: numbers, pictures, curves and settings.

What the page shows is read from the run's folder. A step of the recipe that left nothing is named,
so a page can be made of an unfinished run.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from eval.analysis.compare import scores_of
from eval.analysis.input_ablation import report_input_ablation
from eval.analysis.observation import report_observation
from eval.analysis.settings import INPUT_ABLATION
from eval.drawing.easy_vqa import report_easy_vqa
from eval.drawing.settings import EASY_VQA
from eval.overview.run_summary import flat_summary, number_table
from eval.reconstruction.report import report_reconstruction
from eval.reports.figures import training_curves
from eval.reports.page import Card, Report, Section, absent, flat_settings, parts_of, score_table
from eval.reports.page import write_report as write_page
from eval.vqa.report import report_questions
from eval.vqa.scorers.tasks import TASKS
from runtime.errors import UserError
from runtime.files import read_json, write_json
from runtime.json_lines import read_rows
from runtime.metrics_log import read_metrics

REPORTS = {
    "reconstruction": report_reconstruction,
    "generation": report_easy_vqa,
    "vqa": report_questions,
    "input_ablation": report_input_ablation,
    "observation": report_observation,
}
"""Kind of evaluation → its report, in the order in which a page shows them."""
KINDS = {
    "reconstruction": "reconstruction",
    f"generation, {EASY_VQA}": "generation",
    INPUT_ABLATION: "input_ablation",
    "observation": "observation",
} | dict.fromkeys(TASKS, "vqa")
"""Task of a summary → its kind."""


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation left in its folder; its kind is one of `REPORTS`, or "" for any other."""

    folder: Path
    summary: dict[str, Any]
    kind: str

    def report(self) -> Report:
        """Its own report, or a table of its scores."""
        if self.kind:
            return REPORTS[self.kind](self.folder)
        title = str(self.summary["task"])
        return Report(title[0].upper() + title[1:], "", [score_table(scores_of(self.summary))])


def summarize(run: Path, seconds: float | None, peak_memory_gb: float | None) -> dict[str, Any]:
    """Write the run's `summary.json`; see `flat_summary` for its keys and the numbers to give.

    Raises:
        UserError: if there is no such folder, or one of its files is damaged.
    """
    found = _find_evaluations(run)
    # Of several of a kind the one whose folder has the kind's name, else the first.
    parts = {each.kind: each.summary for each in reversed(found)}
    parts |= {each.kind: each.summary for each in found if each.folder.name == each.kind}
    summary = flat_summary(parts, seconds, peak_memory_gb)
    write_json(run / "summary.json", summary)
    return summary


def write_report(run: Path) -> Path:
    """Write `report.html`, which it returns, and `report.md`; call `summarize` before.

    Raises:
        UserError: as `summarize`.
    """
    evaluations = _find_evaluations(run)
    text, recipe = _recipe(run)
    summary, timings, environment = (
        read_json(path) if (path := run / f"{name}.json").is_file() else {}
        for name in ("summary", "timings", "environment")
    )
    seconds = {**timings, "all steps": sum(timings.values())}
    minutes = [(name, "{}:{:02}".format(*divmod(round(s), 60))) for name, s in seconds.items()]
    sections = [
        number_table(summary, recipe.get("targets", {}), recipe.get("limits", {}))
        if evaluations
        else absent("Numbers", "evaluation at all", "eval/"),
        *(part for evaluation in evaluations for part in parts_of(evaluation.report())),
        *_missing(run, recipe, evaluations),
        *_drawn(run, recipe),
        _training(run, recipe),
        Section("Time", header=("Step", "Minutes"), rows=minutes)
        if timings
        else absent("Time", "timings", "timings.json"),
        Section("Versions and machine", rows=list(flat_settings(environment).items()))
        if environment
        else absent("Versions and machine", "record of its environment", "environment.json"),
        Section("The resolved recipe", code=text)
        if text
        else absent("The resolved recipe", "configuration", "config.yaml"),
    ]
    title = str(recipe.get("title", run.name))
    lead = "What this run trained and measured; all of it was read from the run's folder."
    return write_page(Report(title, lead, sections), run)


def _find_evaluations(run: Path) -> list[Evaluation]:
    """The finished evaluations in a run's folder, in the order in which a page shows them."""
    if not run.is_dir():
        raise UserError(f"There is no run at {run}.")
    found = []
    folders = {path.parent for depth in ("*", "*/*") for path in run.glob(f"{depth}/summary.json")}
    inside = {folder.resolve() for folder in folders}
    for _, folder in _steps(run, _recipe(run)[1], "eval"):  # wherever the recipe puts them
        if folder.resolve() not in inside and (folder / "summary.json").is_file():
            folders.add(folder)
    for path in (folder / "summary.json" for folder in sorted(folders)):
        summary = read_json(path)
        if isinstance(summary, dict) and summary.get("task", "compare") != "compare":
            kind = KINDS.get(str(summary["task"]), "")
            found.append(Evaluation(path.parent, summary, kind))
    return sorted(found, key=lambda each: [*REPORTS, ""].index(each.kind))


def _recipe(run: Path) -> tuple[str, dict[str, Any]]:
    """The resolved recipe, as text and as values; both empty where there is none."""
    path = run / "config.yaml"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return text, yaml.safe_load(text) or {}


def _steps(run: Path, recipe: Mapping[str, Any], kind: str) -> Iterator[tuple[str, Path]]:
    """Name and folder of the recipe's steps whose command begins with a word."""
    for name, step in recipe.get("steps", {}).items():
        if str(step.get("run", "")).split()[:1] == [kind] and "out" in step:
            yield name, Path(str(step["out"]).replace("${out}", str(run)))


def _missing(run: Path, recipe: Mapping[str, Any], found: list[Evaluation]) -> Iterator[Section]:
    """A section for each evaluation of the recipe that is not there."""
    there = {evaluation.folder.resolve() for evaluation in found}
    for name, folder in _steps(run, recipe, "eval"):
        if folder.resolve() not in there:
            yield absent(name, "result of this step", f"{folder}/summary.json")


def _drawn(run: Path, recipe: Mapping[str, Any]) -> Iterator[Section]:
    """The first drawings of each step that draws a list of prompts."""
    for name, folder in _steps(run, recipe, "generate"):
        if not (folder / "images.jsonl").is_file():
            yield absent(name, "drawings", f"{folder}/images.jsonl")
            continue
        by_prompt: dict[str, list[tuple[Path, str]]] = defaultdict(list)
        for row in read_rows(folder / "images.jsonl"):
            by_prompt[row["prompt"]].append((folder / row["file"], f"seed {row['seed']}"))
        cards = [Card(prompt, pictures) for prompt, pictures in by_prompt.items()]
        lead = f"{sum(map(len, by_prompt.values()))} drawings, none chosen by hand."
        yield Section(f"Drawings: {name}", lead, cards=cards)


def _training(run: Path, recipe: Mapping[str, Any]) -> Section:
    """The curves of every training step, or of every folder with a log where there is no recipe."""
    folders = dict(_steps(run, recipe, "train"))
    if not folders:
        folders = {path.parent.name: path.parent for path in sorted(run.glob("*/metrics.jsonl"))}
    logs = {name: folder / "metrics.jsonl" for name, folder in folders.items()}
    charts = {
        name: curves
        for name, log in logs.items()
        if log.is_file() and (curves := training_curves(read_metrics(log), f"curves-{name}"))
    }
    if not charts:
        return absent("Training", "curves", "metrics.jsonl")
    missing = ", ".join(name for name in logs if name not in charts)
    lead = f"Left out: no curves of {missing} (metrics.jsonl)." if missing else ""
    note = (
        "Against the step. Thin: as logged; thick: running mean over about a twentieth of the "
        "curve. The axis is logarithmic where a loss falls more than twentyfold."
    )
    return Section("Training", lead, charts=charts, note=note)
