"""GQA: exact match (Hudson and Manning 2019; its `eval.py` on answers as LLaVA converts them)."""

from collections.abc import Sequence
from typing import Any

from eval.vqa.scorers.task import SHORT_ANSWER, BenchmarkQuestion, Judged, Task


def judge(question: BenchmarkQuestion, prediction: str) -> tuple[str, float]:
    """Exact match after lower case and without final periods; nothing else is forgiven."""
    compared = prediction.rstrip(".").lower()
    return compared, float(compared in question.answers)


def binary_and_open(judged: Sequence[Judged]) -> dict[str, Any]:
    """GQA's own split: questions of structure "query" are open, all others have two outcomes."""
    figures: dict[str, Any] = {}
    typed = [(entry.question.category, entry.score) for entry in judged if entry.question.category]
    for name in ("binary", "open"):
        scores = [score for kind, score in typed if (kind == "query") == (name == "open")]
        figures[f"{name}_accuracy"] = sum(scores) / len(scores) if scores else None
    return figures


TASK = Task(
    name="gqa",
    rule="GQA: exact match after lower case and without the final period",
    judge=judge,
    figures=binary_and_open,
    instruction=SHORT_ANSWER,
)
