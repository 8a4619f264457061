"""VQAv2: soft accuracy against ten annotators (Goyal et al. 2017; official `vqaEval.py`)."""

from collections.abc import Sequence
from typing import Any

from eval.vqa.scorers.task import SHORT_ANSWER, BenchmarkQuestion, Judged, Task
from eval.vqa.scorers.vqa_text import leave_one_out, strip_punctuation, ten_answers, unify_words


def judge(question: BenchmarkQuestion, prediction: str) -> tuple[str, float]:
    """Score one answer by the official rule.

    Where all ten annotators wrote the very same text, nothing is cleaned on either side: then "Yes"
    and "yes." are wrong where all wrote "yes". lmms-eval cleans always.

    Returns:
        The answer as it was compared, and its score in [0, 1].
    """
    answers = [_trim(answer) for answer in question.answers]
    compared = _trim(prediction)
    if len(set(answers)) > 1:
        answers = [clean(answer) for answer in answers]
        compared = clean(compared)
    return compared, leave_one_out(compared, answers)


def clean(text: str) -> str:
    """The clean-up of trimmed text: punctuation, then words."""
    return unify_words(strip_punctuation(text))


def _trim(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def by_answer_type(judged: Sequence[Judged]) -> dict[str, Any]:
    """Accuracy of yes/no, number and other questions, from a category "answer type, question type".

    These three are what VQAv2's own page shows; by_type has the finer ones.
    """
    totals: dict[str, list[float]] = {}
    for entry in judged:
        answer_type, comma, _ = entry.question.category.partition(", ")
        if comma:
            totals.setdefault(answer_type, []).append(entry.score)
    return {
        "by_answer_type": {
            name: {"accuracy": sum(scores) / len(scores), "num_questions": len(scores)}
            for name, scores in sorted(totals.items())
        }
    }


TASK = Task(
    name="vqav2",
    rule="VQAv2 (vqaEval.py): mean over ten annotators of min(1, matches among the other nine / 3)"
    "; answers are cleaned unless all ten are the same",
    judge=judge,
    complaint=lambda question: ten_answers(question.answers),
    figures=by_answer_type,
    instruction=SHORT_ANSWER,
)
