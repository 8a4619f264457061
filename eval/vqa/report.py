"""The report of `semhitok eval vqa`, from what it saved: `report.html` and `report.md`."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from eval.reports.evaluation_page import Card, Report, Table, write_reports
from eval.reports.pages import saved_rows
from eval.reports.published_results import understanding_line
from eval.vqa.scorers.multiple_choice import LETTERS
from eval.vqa.scores import ITSELF

Summary = Mapping[str, Any]

WORTH = {
    "question_only_baseline": "the question alone, answered as most often",
    "open_question_only_baseline": "the same, of open questions",
    "commonest_answer_baseline": "the commonest answer to everything",
    "always_yes_baseline": "“yes” to everything",
    "yes_no_share": "share of yes/no questions",
    "answered_yes_share": "share of answers “yes”",
    "repeated_question_share": "share of questions whose text comes more than once",
}


def report_questions(folder: Path | str) -> Path:
    """Write the report of the evaluation in a folder; wrong answers first.

    Returns:
        The HTML page.
    """
    from runtime.run_folder import read_json

    folder = Path(folder)
    summary = read_json(folder / "summary.json")
    examples = folder / "examples.jsonl"
    cards = [_card(row) for row in saved_rows(examples)] if examples.is_file() else []
    counted_on = summary["question_only_baseline_counted_on"]
    if counted_on == ITSELF:
        counted_on += ", so it is an upper bound, and tells nothing where no question comes twice"
    worth = [
        (name, f"{summary[key]:.1%}") for key, name in WORTH.items() if summary.get(key) is not None
    ]
    tables = [
        _accuracies(summary),
        Table(
            "What that is worth",
            ("Baseline or share", ""),
            worth,
            f"Answers counted on: {counted_on}.",
        ),
    ]
    if rows := [(name, _number(value)) for name, value in _flat(summary["figures"])]:
        tables.append(Table("The benchmark's own figures", ("Figure", "Value"), rows))
    if published := understanding_line(summary):
        tables.append(published)
    shown = {*WORTH, "overall", "open", "yes_no", "by_type", "figures"}
    low, high = summary["overall"]["interval"]
    report = Report(
        f"Questions: {summary['task']}",
        f"{summary['overall']['accuracy']:.1%} of {summary['num_questions']:,} questions about "
        f"{summary['num_images']:,} images right (95 % interval {low:.1%} to {high:.1%}).",
        tables,
        cards,
        "Answers, the wrong ones first, drawn at random with the types taking turns",
        {key: value for key, value in summary.items() if key not in shown},
    )
    return write_reports(report, folder)


def _accuracies(summary: Summary) -> Table:
    groups = {"all": summary["overall"], "open": summary["open"], "yes/no": summary["yes_no"]}
    groups |= {name: group for name, group in summary["by_type"].items() if name not in groups}
    rows = [
        (
            name,
            f"{group['accuracy']:.1%}",
            " to ".join(f"{bound:.1%}" for bound in group["interval"]),
            f"{group['num_questions']:,}",
        )
        for name, group in groups.items()
        if group["num_questions"]
    ]
    header = ("Questions", "Right", "95 % interval (Wilson)", "Number")
    return Table("Accuracy", header, rows, f"Rule: {summary['rule']}.")


def _card(row: Mapping[str, Any]) -> Card:
    accepted = ", ".join(dict.fromkeys(row["answers"]))
    lettered = zip(LETTERS, row.get("options", ()), strict=False)
    options = "".join(f" {letter}. {text}" for letter, text in lettered)
    read = f", read as {row['read_as']!r}" if row["read_as"] not in (row["prediction"], "") else ""
    score = "" if row["score"] in (0, 1) else f"score {row['score']:.2g}; "  # of a soft rule
    return Card(
        row["question"] + options,
        [(row["image"], row["type"] or "image")],
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
