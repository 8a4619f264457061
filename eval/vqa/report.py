"""The report of `semhitok eval vqa`, from what it saved."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from eval.reports.page import Bar, Card, Report, Section
from eval.vqa.scorers.multiple_choice import LETTERS
from eval.vqa.scores import ITSELF
from runtime.files import read_json
from runtime.json_lines import read_rows

Summary = Mapping[str, Any]

WORTH = {
    "question_only_baseline": "the question alone, answered as most often",
    "open_question_only_baseline": "the same, of open questions",
    "most_frequent_answer_baseline": "the most frequent answer to everything",
    "always_yes_baseline": "“yes” to everything",
    "yes_no_share": "fraction of yes/no questions",
    "answered_yes_share": "fraction of answers “yes”",
    "repeated_question_share": "fraction of questions whose text comes more than once",
}
NOT_SETTINGS = {*WORTH, "overall", "open", "yes_no", "by_type", "figures"}


def report_questions(folder: Path) -> Report:
    """The report of the evaluation in a folder; wrong answers first."""
    summary = read_json(folder / "summary.json")
    counted_on = summary["question_only_baseline_counted_on"]
    if counted_on == ITSELF:
        counted_on += ", so it is an upper bound, and tells nothing where no question comes twice"
    found = ((name, summary.get(key)) for key, name in WORTH.items())
    worth = [(name, f"{value:.1%}") for name, value in found if value is not None]
    header, note = ("Baseline or fraction", ""), f"Answers counted on: {counted_on}."
    sections = [
        _accuracies(summary),
        Section("What that is worth", header=header, rows=worth, note=note),
    ]
    if rows := [(name, _number(value)) for name, value in _flat(summary["figures"])]:
        title = "The benchmark's own figures"
        sections.append(Section(title, header=("Figure", "Value"), rows=rows))
    cards = [_card(folder, row) for row in read_rows(folder / "examples.jsonl")]
    lead = "Drawn at random with the types taking turns; all are in predictions.jsonl."
    sections.append(Section("Answers, the wrong ones first", lead, cards=cards))
    low, high = summary["overall"]["interval"]
    return Report(
        f"Questions: {summary['task']}",
        f"{summary['overall']['accuracy']:.1%} of {summary['num_questions']:,} questions about "
        f"{summary['num_images']:,} images right (95 % interval {low:.1%} to {high:.1%}). "
        f"In {summary['num_unread']:,} answers the rule could read nothing.",
        sections,
        {key: value for key, value in summary.items() if key not in NOT_SETTINGS},
    )


def _accuracies(summary: Summary) -> Section:
    groups = {"all": summary["overall"], "open": summary["open"], "yes/no": summary["yes_no"]}
    groups |= {name: group for name, group in summary["by_type"].items() if name not in groups}
    rows = [
        (
            name,
            f"{group['accuracy']:.1%}",
            Bar(group["accuracy"]),
            " to ".join(f"{bound:.1%}" for bound in group["interval"]),
            f"{group['num_questions']:,}",
        )
        for name, group in groups.items()
        if group["num_questions"]
    ]
    header = ("Questions", "Right", "", "95 % interval (Wilson)", "Number")
    return Section("Accuracy", header=header, rows=rows, note=f"Rule: {summary['rule']}.")


def _card(folder: Path, row: Mapping[str, Any]) -> Card:
    accepted = ", ".join(dict.fromkeys(row["answers"]))
    lettered = zip(LETTERS, row.get("options", ()), strict=False)
    options = "".join(f" {letter}. {text}" for letter, text in lettered)
    read = f", read as {row['read_as']!r}" if row["read_as"] not in (row["prediction"], "") else ""
    score = "" if row["score"] in (0, 1) else f"score {row['score']:.2g}; "  # of a soft rule
    return Card(
        row["question"] + options,
        [(folder / row["image"], row["type"] or "image")],
        row["correct"],
        f"{score}said {row['prediction']!r}{read}; accepted: {accepted}",
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}: ")
        elif value not in (None, []):
            yield name, value


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.1%}" if value <= 1 else f"{value:,.1f}"
    return ", ".join(value) if isinstance(value, list) else f"{value:,}"
