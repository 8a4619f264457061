"""The report of the easy-VQA drawing task, from what it saved."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.reports.page import MARKS, Card, Report, Section
from runtime.files import read_json
from runtime.json_lines import read_rows

NOT_SETTINGS = ("per_prompt", "interval", "accuracy", "num_correct")


def report_easy_vqa(folder: Path) -> Report:
    """The report of the evaluation in a folder; prompts with wrong drawings come first."""
    summary = read_json(folder / "summary.json")
    low, high = summary["interval"]
    rows = [
        (name, f"{summary[right]:.1%}", f"{summary[chance]:.1%}")
        for name, right, chance in (
            ("colour and shape", "accuracy", "chance"),
            ("colour", "colour_accuracy", "colour_chance"),
            ("shape", "shape_accuracy", "shape_chance"),
            ("colour and shape, first candidates", "first_candidate_accuracy", "chance"),
        )
    ]
    by_prompt: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in read_rows(folder / "judged.jsonl"):
        by_prompt[row["prompt"]].append(row)
    worst_first = sorted(by_prompt.items(), key=lambda item: sum(r["correct"] for r in item[1]))
    cards = [_card(folder, prompt, judged) for prompt, judged in worst_first]
    note = (
        f"Rule: {summary['rule']}. It looks at pixels alone; no model of ours takes part. Under a "
        f"wrong drawing stands what the rule saw; in {summary['num_unread']:,} it saw no shape."
    )
    return Report(
        "Drawings: easy-VQA",
        f"{summary['num_correct']:,} of {summary['num_drawings']:,} drawings right, "
        f"{summary['accuracy']:.1%} (95 % interval {low:.1%} to {high:.1%}); chance gives "
        f"{summary['chance']:.1%}. {summary['seeds_per_prompt']} drawings of each prompt, none "
        "chosen by hand.",
        [
            Section("Drawings right", header=("In", "Right", "Chance"), rows=rows, note=note),
            Section("By prompt", cards=cards),
        ],
        {key: value for key, value in summary.items() if key not in NOT_SETTINGS},
    )


def _card(folder: Path, prompt: str, judged: Sequence[Mapping[str, Any]]) -> Card:
    marks = [row["correct"] for row in judged]
    pictures = [(folder / row["image"], f"{MARKS[row['correct']]} {_seen(row)}") for row in judged]
    right = marks[0] if len(set(marks)) == 1 else None
    return Card(prompt, pictures, right, f"{sum(marks)} of {len(marks)} right")


def _seen(row: Mapping[str, Any]) -> str:
    if row["correct"]:
        return f"seed {row['seed']}"
    seen = " ".join(str(row[key]) for key in ("seen_colour", "seen_shape") if row[key])
    return f"seen: {seen or 'nothing'}"
