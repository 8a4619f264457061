"""POPE: is an object in the image, yes or no (Li et al. 2023; official `evaluate.py`)."""

import re
from collections.abc import Sequence
from typing import Any

from eval.vqa.scorers.task import SHORT_ANSWER, BenchmarkQuestion, Judged, Task

SPLITS = ("random", "popular", "adversarial")
"""How the absent objects were chosen."""


def read_yes_no(prediction: str) -> str:
    """What the official script reads in an answer.

    Of the text before the first period, without commas and cut at spaces, one word out of "No",
    "not" and "no" makes it a no; anything else is a yes, also "NO", "Not sure" and nothing at all.
    """
    first = prediction.split(".")[0].replace(",", "")
    return "no" if {"No", "not", "no"} & set(first.split(" ")) else "yes"


def judge(question: BenchmarkQuestion, prediction: str) -> tuple[str, float]:
    """Whether the answer says yes or no as the label does; any label but "no" is a yes."""
    said = read_yes_no(prediction)
    return said, float(said == _label(question))


def confusion(judged: Sequence[Judged]) -> dict[str, Any]:
    """Accuracy, precision, recall, F1 ("yes" is the positive) and the fraction of answers "yes".

    Precision, recall and F1 are None where the official script would divide by zero.
    """
    said = [entry.read_as == "yes" for entry in judged]
    true = [_label(entry.question) == "yes" for entry in judged]
    both = sum(s and t for s, t in zip(said, true, strict=True))
    precision = both / sum(said) if any(said) else None
    recall = both / sum(true) if any(true) else None
    f1 = 2 * precision * recall / (precision + recall) if precision and recall else None
    return {
        "accuracy": sum(s == t for s, t in zip(said, true, strict=True)) / len(judged),
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "yes_ratio": sum(said) / len(judged),
        "num_questions": len(judged),
    }


def figures(judged: Sequence[Judged]) -> dict[str, Any]:
    """The five figures for each split, and the means over the splits that papers print."""
    names = sorted({entry.question.category for entry in judged})
    by_split = {
        name or "all": confusion([entry for entry in judged if entry.question.category == name])
        for name in names
    }
    means: dict[str, float | None] = {}
    for key in ("accuracy", "f1", "yes_ratio"):
        values = [split[key] for split in by_split.values()]
        means[f"mean_{key}"] = None if None in values else sum(values) / len(values)
    return {"by_split": by_split, "splits_missing": sorted(set(SPLITS) - set(names)), **means}


def _label(question: BenchmarkQuestion) -> str:
    return "no" if question.answers[0] == "no" else "yes"


def _words(text: str) -> list[str]:
    return re.findall("[a-z]+", text.lower())


def _complaint(question: BenchmarkQuestion) -> str | None:
    if len(question.answers) == 1 and question.answers[0] in ("yes", "no"):
        return None
    return f'has the label {", ".join(question.answers)!r} where POPE has "yes" or "no"'


TASK = Task(
    name="pope",
    rule='POPE (evaluate.py): "no" if the first sentence holds the word No, not or no, else "yes"',
    judge=judge,
    is_unread=lambda entry: not {"yes", "no", "not"} & set(_words(entry.prediction)),
    complaint=_complaint,
    figures=figures,
    instruction=SHORT_ANSWER,
    max_new_tokens=32,
)
