"""The report of `semhitok eval vqa`, from what it saved, and the questions saved for it."""

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from data_pipelines.images import open_image, write_png
from eval.reports.page import Bar, Card, Report, Section
from eval.vqa.scorers.multiple_choice import LETTERS
from eval.vqa.scorers.task import Judged, image_data
from eval.vqa.scores import ITSELF
from runtime.files import read_json
from runtime.json_lines import read_rows, write_rows
from runtime.run_folder import make_folder

Row = Mapping[str, Any]
NUM_WRONG_SHOWN = 16
NUM_RIGHT_SHOWN = 8

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


def _accuracies(summary: Mapping[str, Any]) -> Section:
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


def _card(folder: Path, row: Row) -> Card:
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


def pick_examples(rows: Sequence[Row], limit: int, seed: int = 0) -> list[Row]:
    """At most `limit` rows, drawn at random with the question types taking turns.

    Without the turns nearly all questions that a report shows would be of the most frequent type.
    """
    by_type: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_type[row["type"]].append(row)
    shuffler = random.Random(seed)
    for group in by_type.values():
        shuffler.shuffle(group)
    turns = zip_longest(*(by_type[name] for name in sorted(by_type)))
    return [row for row in chain.from_iterable(turns) if row is not None][:limit]


def write_examples(judged: Sequence[Judged], rows: Sequence[Row], out_dir: Path) -> None:
    """Save wrong and right answers with their images, so that a report needs no data set.

    Where the images are not at hand, as for predictions of other systems, nothing is written.
    """
    pictures = {entry.question.question_id: entry.question.images for entry in judged}
    if not all(pictures.values()):
        return
    wrong = pick_examples([row for row in rows if not row["correct"]], NUM_WRONG_SHOWN)
    right = pick_examples([row for row in rows if row["correct"]], NUM_RIGHT_SHOWN)
    make_folder(out_dir / "images")
    names: dict[str, str] = {}
    examples = []
    for row in wrong + right:
        key = row["image_id"]
        if key not in names:
            # Numbered, not named by image id: an id may hold characters that no file name may.
            names[key] = f"images/{len(names):03d}.png"
            data = image_data(pictures[row["question_id"]][0])
            write_png(open_image(data, name=f"the image {key}"), out_dir / names[key])
        examples.append({**row, "image": names[key]})
    write_rows(out_dir / "examples.jsonl", examples)
