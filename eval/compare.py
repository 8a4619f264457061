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

from eval.evaluation_report import Report, Table, write_reports
from semhitok.errors import UserError

CONDITIONS = {
    "task": "task",
    "benchmark": "benchmark",
    "rule": "rule",
    "split": "split",
    "data_fingerprint": "set of images or questions",
    "questions_fingerprint": "questions",
    "reference_fingerprint": "set of real images",
    "prompts_sha256": "prompt file",
    "prompts_rewritten": "rewriting of prompts",
    "num_images": "number of images",
    "num_questions": "number of questions",
    "num_drawings": "number of drawings",
    "num_prompts": "number of prompts",
    "resolution": "resolution",
    "crop": "crop",
    "psnr_rule": "rule of PSNR",
    "ssim_rule": "rule of SSIM",
    "feature_networks": "feature network",
    "network_fingerprints": "weights of the feature network",
    "judge": "judge",
    "detector": "detector",
    "clip": "CLIP",
    "asking": "way of asking",
    "decoding": "decoding",
}
"""Keys of a summary that must agree, and what they are called."""

UNKNOWN = "not known"
"""A condition that begins so, as the decoding of another system, is said but keeps nothing out."""


def read_summary(path: Path | str) -> dict[str, Any]:
    """The summary in a folder that an evaluation wrote, or the file itself.

    Raises:
        UserError: if there is none.
    """
    from semhitok.run import read_json

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
    return summary


def conditions_of(summary: Mapping[str, Any]) -> dict[str, Any]:
    """All that must agree of a result, as a summary of several results keeps it."""
    found = {key: _condition(summary, key) for key in CONDITIONS}
    return {key: value for key, value in found.items() if value not in (None, [])}


def differences(summaries: Sequence[Mapping[str, Any]]) -> list[str]:
    """What keeps results out of one table, each with the values; empty where nothing does.

    A summary with `parts`, each the conditions of a result within it, is compared part by part.
    """
    found = []
    for key, name in CONDITIONS.items():
        values = [_condition(summary, key) for summary in summaries]
        known = [value for value in values if not str(value).startswith(UNKNOWN)]
        if any(value != known[0] for value in known):
            shown = " and ".join(dict.fromkeys(map(_short, known)))
            found.append(f"{name} ({shown})")
    parts = dict.fromkeys(part for summary in summaries for part in summary.get("parts", {}))
    for part in parts:
        inner = [summary.get("parts", {}).get(part, {}) for summary in summaries]
        found += [f"{name} of {part}" for name in differences(inner)]
    return found


def scores_of(summary: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Name → `value` and `interval` of every score of a result, of whichever evaluation.

    Newer results list theirs under `scores`; of the others every group with an `accuracy` counts.
    """
    if "scores" in summary:
        return dict(summary["scores"])
    found: dict[str, dict[str, Any]] = {}
    if isinstance(summary.get("accuracy"), int | float):
        found["accuracy"] = {"value": summary["accuracy"], "interval": summary.get("interval")}
    for key, value in summary.items():
        groups = value.items() if key in ("by_type", "by_task") else [("", value)]
        for name, group in groups:
            accuracy = group.get("accuracy") if isinstance(group, Mapping) else None
            if isinstance(accuracy, int | float):
                label = f"accuracy, {name or key.replace('_', ' ')}"
                found[label] = {"value": accuracy, "interval": group.get("interval")}
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
    from semhitok.run import make_folder, write_json

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
        if str(_condition(summary, key)).startswith(UNKNOWN)
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


def _condition(summary: Mapping[str, Any], key: str) -> Any:
    if key == "network_fingerprints" and key not in summary:
        scores = summary.get("scores", {}).values()
        return sorted({s["network_fingerprint"] for s in scores if "network_fingerprint" in s})
    return summary.get(key)


def _short(value: Any) -> str:
    text = "none" if value in (None, []) else str(value)
    return text if len(text) <= 60 else f"{text[:28]}…{text[-28:]}"


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
