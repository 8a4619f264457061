"""The report of the easy-VQA drawing task, from what it saved: `report.html` and `report.md`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.reports.evaluation_page import Card, Report, Table, write_reports
from eval.reports.pages import saved_rows


def report_drawings(folder: Path | str) -> Path:
    """Write the report of the evaluation in a folder; wrong drawings first.

    Returns:
        The HTML page.
    """
    from runtime.run_folder import read_json

    folder = Path(folder)
    summary = read_json(folder / "summary.json")
    low, high = summary["interval"]
    number = f"{summary['num_drawings']:,}"
    rows = [
        ("colour and shape", f"{summary['accuracy']:.1%}", f"{summary['chance']:.1%}"),
        ("colour", f"{summary['colour_accuracy']:.1%}", f"{summary['colour_chance']:.1%}"),
        ("shape", f"{summary['shape_accuracy']:.1%}", f"{summary['shape_chance']:.1%}"),
        (
            "colour and shape, first candidates",
            f"{summary['first_candidate_accuracy']:.1%}",
            f"{summary['chance']:.1%}",
        ),
    ]
    prompts = sorted(summary["per_prompt"].items(), key=lambda entry: entry[1])
    shown = ("per_prompt", "interval", "accuracy", "num_correct")
    report = Report(
        "Drawings: easy-VQA",
        f"{summary['num_correct']:,} of {number} drawings right, {summary['accuracy']:.1%} (95 % "
        f"interval {low:.1%} to {high:.1%}); chance gives {summary['chance']:.1%}.",
        [
            Table("Drawings right", ("In", "Right", "Chance"), rows, f"Rule: {summary['rule']}."),
            Table(
                "By prompt, the worst first",
                ("Prompt", "Right"),
                [(text, f"{share:.0%}") for text, share in prompts],
            ),
        ],
        drawing_cards(folder),
        "Drawings, the wrong ones first",
        {key: value for key, value in summary.items() if key not in shown},
    )
    return write_reports(report, folder)


def drawing_cards(folder: Path, prefix: str = "") -> list[Card]:
    """A card for each drawing in the folder of an evaluation.

    Args:
        folder: holds `judged.jsonl`.
        prefix: of the pictures' paths, from the folder of the report.
    """
    return [_card(row, prefix) for row in saved_rows(folder / "judged.jsonl")]


def _card(row: Mapping[str, Any], prefix: str) -> Card:
    seen = " ".join(str(row[key]) for key in ("seen_colour", "seen_shape") if row[key])
    return Card(
        row["prompt"],
        [(f"{prefix}{row['image']}", f"seed {row['seed']}")],
        row["correct"],
        f"seen: {seen or 'nothing'}",
    )
