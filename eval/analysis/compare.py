r"""Runs side by side, where they can be: the same images, rule, network, size and crop.

Two numbers that were measured differently do not stand in one column. The refusal names what
differs, so that the runs can be made alike.

Example:
    semhitok eval compare runs/eval-reconstruction runs/eval-reconstruction --out runs/compare
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.analysis.settings import CompareSettings
from eval.measures.conditions import CONDITIONS, UNKNOWN, condition, differences
from eval.reports.page import COUNTS, Report, Section, write_report
from runtime.errors import UserError
from runtime.files import read_json, write_json
from runtime.resume import holds_output
from runtime.run_folder import make_folder

NOTE = (
    "95 % intervals in brackets. “Apart”: some two intervals do not touch, so more than chance "
    "lies between them; where they touch, these runs do not decide it."
)


def read_summary(path: Path | str) -> dict[str, Any]:
    """The summary in a folder that an evaluation wrote, or the file itself.

    Raises:
        UserError: if there is none.
    """
    path = Path(path)
    file = path / "summary.json" if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{path} holds no result (summary.json): name a folder of semhitok eval.")
    summary = read_json(file)
    if not isinstance(summary, dict) or "task" not in summary:
        raise UserError(
            f"{file} is not the result of one evaluation: name the folder of a semhitok eval "
            "command, not of a quickstart."
        )
    scores = summary.get("scores", {})
    if not (isinstance(scores, dict) and all(map(_is_score, scores.values()))):
        raise UserError(
            f"The scores in {file} are not as semhitok eval writes them: run that evaluation again."
        )
    return summary


def _is_score(score: Any) -> bool:
    if not (isinstance(score, dict) and isinstance(score.get("value"), int | float)):
        return False
    interval = score.get("interval")
    return interval is None or (isinstance(interval, list) and len(interval) == 2)


def scores_of(summary: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Name → `value` and `interval` of every score of a result, of whichever evaluation.

    Newer results list theirs under `scores`; of the others every group with an `accuracy` counts.
    """
    if "scores" in summary:
        return dict(summary["scores"])
    groups: dict[str, Any] = {"accuracy": summary}
    for key, value in summary.items():
        parts = value if key in ("by_type", "by_task") else {key.replace("_", " "): value}
        groups |= {f"accuracy, {name}": part for name, part in parts.items()}
    found: dict[str, dict[str, Any]] = {}
    for name, group in groups.items():
        if isinstance(group, Mapping) and isinstance(group.get("accuracy"), int | float):
            found[name] = {"value": group["accuracy"], "interval": group.get("interval")}
            found[name] |= {key: group[key] for key in COUNTS if key in group}
    for key, value in summary.get("figures", {}).items():  # a benchmark's own, such as MME's sums
        if isinstance(value, float):  # not a count
            found[key.replace("_", " ")] = {"value": value, "interval": None}
    for key in ("colour_accuracy", "shape_accuracy", "question_only_baseline"):
        if isinstance(summary.get(key), int | float):
            found[key.replace("_", " ")] = {"value": summary[key], "interval": None}
    return found


@holds_output
def compare(settings: CompareSettings) -> Path:
    """Write a table of the runs to `report.html`, `report.md` and `summary.json`, and print it;
    returns the folder.

    Raises:
        UserError: as `side_by_side`.
    """
    report, scores = side_by_side(settings.results)
    make_folder(settings.out)
    runs = [str(path) for path in settings.results]
    write_json(settings.out / "summary.json", {"task": "compare", "runs": runs, "scores": scores})
    write_report(report, settings.out)
    table = report.sections[0]
    lines = [[str(cell) for cell in line] for line in (table.header, *table.rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.header))]
    for line in lines:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)))
    return settings.out


def side_by_side(paths: Sequence[Path]) -> tuple[Report, dict[str, dict[str, Any]]]:
    """The report of a comparison, whose first section is the table, and the scores of each run.

    Raises:
        UserError: if one of the runs is no result, or they cannot be compared.
    """
    summaries = [read_summary(path) for path in paths]
    if differs := differences(summaries):
        raise UserError(
            f"These results cannot stand side by side: they differ in {'; '.join(differs)}. "
            "Measure them alike."
        )
    names = _names(paths)
    scores = [scores_of(summary) for summary in summaries]
    common = [name for name in scores[0] if all(name in found for found in scores)]
    if not common:
        raise UserError("These results have no score in common.")
    rows = [
        (name, *(_cell(found[name]) for found in scores), _reading([s[name] for s in scores]))
        for name in common
    ]
    unknown = [
        f"{CONDITIONS[key]} of {name}"
        for name, summary in zip(names, summaries, strict=True)
        for key in CONDITIONS
        if str(condition(summary, key)).startswith(UNKNOWN)
    ]
    lead = f"{len(paths)} results of the task {summaries[0]['task']}, measured alike"
    lead += f"; not known: {', '.join(unknown)}." if unknown else "."
    header = ("Score", *names, "Reading")
    table = Section("Side by side", header=header, rows=rows, note=NOTE)
    about = {CONDITIONS[key]: summaries[0][key] for key in CONDITIONS if key in summaries[0]}
    return Report("Comparison", lead, [table], about), dict(zip(names, scores, strict=True))


def _names(paths: Sequence[Path | str]) -> list[str]:
    """The last part of each path; the whole path where that is not enough, numbered at need."""
    for found in ([Path(p).resolve().name for p in paths], [str(p) for p in paths]):
        if len(set(found)) == len(found):
            return found
    return [f"{path} ({number})" for number, path in enumerate(paths, start=1)]


def _cell(score: Mapping[str, Any]) -> str:
    interval = score.get("interval")
    between = f" [{interval[0]:.4g}, {interval[1]:.4g}]" if interval else ""
    if score.get("std") is not None:
        between = f" ± {score['std']:.2g}"
    elif taken := str(score.get("rule", "")).partition(";")[0]:  # one estimate has no spread
        between = f" ({taken})"
    return f"{score['value']:.4g}{between}"


def _reading(scores: Sequence[Mapping[str, Any]]) -> str:
    intervals = [score.get("interval") for score in scores]
    if not all(intervals):
        return "no interval"
    highest_low = max(interval[0] for interval in intervals if interval)
    lowest_high = min(interval[1] for interval in intervals if interval)
    return "apart" if highest_low > lowest_high else "within chance"
