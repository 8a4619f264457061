r"""Runs side by side, where they can be: the same images, rule, network, size and crop.

Two numbers that were measured differently do not stand in one column. The refusal names what
differs, so that the runs can be made alike.

Example:
    semhitok eval compare runs/eval-reconstruction runs/eval-reconstruction --out runs/compare
"""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.measures.conditions import CONDITIONS, UNKNOWN, condition, differences
from eval.reports.evaluation_page import COUNTS, Report, Table, write_reports
from runtime.errors import UserError


def read_summary(path: Path | str) -> dict[str, Any]:
    """The summary in a folder that an evaluation wrote, or the file itself.

    Raises:
        UserError: if there is none.
    """
    from runtime.run_folder import read_json

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
    found: dict[str, dict[str, Any]] = {}
    if isinstance(summary.get("accuracy"), int | float):
        found["accuracy"] = {"value": summary["accuracy"], "interval": summary.get("interval")}
        found["accuracy"] |= {key: summary[key] for key in COUNTS if key in summary}
    for key, value in summary.items():
        groups = value.items() if key in ("by_type", "by_task") else [("", value)]
        for name, group in groups:
            accuracy = group.get("accuracy") if isinstance(group, Mapping) else None
            if isinstance(accuracy, int | float):
                label = f"accuracy, {name or key.replace('_', ' ')}"
                found[label] = {"value": accuracy, "interval": group.get("interval")}
                found[label] |= {key: group[key] for key in COUNTS if key in group}
    for key, value in summary.get("figures", {}).items():  # a benchmark's own, such as MME's sums
        if isinstance(value, float):  # not a count
            found[key.replace("_", " ")] = {"value": value, "interval": None}
    for key in ("colour_accuracy", "shape_accuracy", "question_only_baseline"):
        if isinstance(summary.get(key), int | float):
            found[key.replace("_", " ")] = {"value": summary[key], "interval": None}
    return found


def compare(paths: Sequence[Path | str], out_dir: Path | str) -> Table:
    """Write a table of the runs to `report.html`, `report.md` and `summary.json`.

    Raises:
        UserError: if there are fewer than two, one is no result, or they cannot be compared.
    """
    from runtime.run_folder import make_folder, write_json

    if len(paths) < 2:
        raise UserError("Name at least 2 results to compare.")
    summaries = [read_summary(path) for path in paths]
    if differs := differences(summaries):
        raise UserError(
            f"These results cannot stand side by side: they differ in {'; '.join(differs)}. "
            "Measure them alike."
        )
    names = _names(paths)
    scores = [scores_of(summary) for summary in summaries]
    rows = []
    for score in scores[0]:
        if all(score in found for found in scores):
            cells = [_cell(found[score]) for found in scores]
            rows.append((score, *cells, _reading([found[score] for found in scores])))
    if not rows:
        raise UserError("These results have no score in common.")
    table = Table(
        "Side by side",
        ("Score", *names, "Reading"),
        rows,
        "95 % intervals in brackets. “Apart”: some two intervals do not touch, so more than chance "
        "lies between them; where they touch, these runs do not decide it.",
    )
    out_dir = make_folder(out_dir)
    settings = {CONDITIONS[key]: summaries[0][key] for key in CONDITIONS if key in summaries[0]}
    write_json(
        out_dir / "summary.json",
        {
            "task": "compare",
            "runs": [str(p) for p in paths],
            "scores": dict(zip(names, scores, strict=True)),
        },
    )
    lead = f"{len(paths)} results of the task {summaries[0]['task']}, measured alike"
    unknown = [
        f"{CONDITIONS[key]} of {name}"
        for name, summary in zip(names, summaries, strict=True)
        for key in CONDITIONS
        if str(condition(summary, key)).startswith(UNKNOWN)
    ]
    lead += f"; not known: {', '.join(unknown)}." if unknown else "."
    write_reports(Report("Comparison", lead, [table], settings=settings), out_dir)
    return table


def command(args: Namespace) -> Path:
    """Run `semhitok eval compare`; returns the folder that was written."""
    table = compare(args.results, args.out)
    widths = [
        max(len(str(row[i])) for row in (table.header, *table.rows))
        for i in range(len(table.header))
    ]
    for row in (table.header, *table.rows):
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)))
    return Path(args.out)


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
