"""A whole benchmark in memory, checked before anything is answered or scored."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from eval.measures.file_names import one_form
from eval.vqa.scorers.task import BenchmarkQuestion, Task
from runtime.errors import UserError
from runtime.files import fingerprint


@dataclass(frozen=True)
class QuestionSet:
    """The questions of one benchmark, or of one split of it."""

    source: str
    """Where they were read, for people."""
    questions: list[BenchmarkQuestion]
    """In the order of the source; images are read when they are needed."""
    left_out: dict[str, int] = field(default_factory=dict)
    """How much the source holds beyond these questions, by what it is."""
    data_fingerprint: str | None = None
    """Names the content of a prepared data set, images included."""

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 over everything that is asked and scored; images by their names."""
        return fingerprint(
            json.dumps([q.question_id, q.question, *q.answers, "", *q.options, "", *about])
            for q in self.questions
            for about in [(q.category, q.group, q.image_id)]
        )


def no_questions(source: object) -> UserError:
    """What to raise where there is nothing to score."""
    return UserError(f"{source} has no questions, so there is nothing to score")


def check_questions(task: Task, found: QuestionSet) -> None:
    """Refuse a set that the task's rule cannot score as it stands.

    Raises:
        UserError: for an empty set, an id that occurs twice, a question without text or answer, or
            whatever the rule itself complains of; the sentence names the first and counts them.
    """
    questions, source = found.questions, found.source
    if not questions:
        raise no_questions(source)
    counts = Counter(one_form(q.question_id) for q in questions)
    if repeated := [key for key, number in counts.items() if number > 1]:
        raise UserError(
            f"{source} has the question id {repeated[0]!r} more than once"
            f"{_and_more(len(repeated), 'id')}; give every question an id of its own"
        )
    if complaints := [(q, reason) for q in questions if (reason := _complaint(task, q))]:
        question, reason = complaints[0]
        raise UserError(
            f"question {question.question_id!r} of {source} {reason}"
            f"{_and_more(len(complaints), 'question')}; {task.name} cannot score it"
        )
    if reason := task.check_set(questions):
        raise UserError(f"{source} cannot be scored: {reason}")


def describe(found: QuestionSet) -> dict[str, Any]:
    """What a summary says of the questions."""
    return {
        "data": found.source,
        "num_questions": len(found.questions),
        "num_images": len({q.image_id for q in found.questions}),
        "left_out": found.left_out,
        "questions_fingerprint": found.fingerprint,
        "data_fingerprint": found.data_fingerprint,
    }


def _complaint(task: Task, question: BenchmarkQuestion) -> str | None:
    if not isinstance(question.question, str):
        return "has a question that is not a text"
    if not question.question.strip():
        return "has no text"
    # A table of a split without answers, such as GQA's test, has none in their column.
    if not question.answers or not all(isinstance(a, str) and a.strip() for a in question.answers):
        return "has no answer, or an empty one"
    return task.complaint(question)


def _and_more(number: int, what: str) -> str:
    return f" (as do {number - 1:,} more {what}s)" if number > 1 else ""


def answer_texts(value: Any, where: str) -> tuple[str, ...]:
    """The accepted answers of a row, numbers as they are written.

    Raises:
        UserError: if they are not a list, or one is neither a text nor a number.
    """
    if not isinstance(value, list):
        raise UserError(f"{where} has answers that are not a list")
    if odd := [answer for answer in value if not isinstance(answer, str | int | float)]:
        raise UserError(f"{where} has {str(odd[0])[:60]!r} where an answer is a text")
    return tuple(map(str, value))


def lettered(options: Sequence[str | None], where: str) -> tuple[str, ...]:
    """The options A, B ... that are there; None stands for one that is not.

    Raises:
        UserError: if one is missing before another, which would give that the wrong letter.
    """
    there = [option for option in options if option is not None]
    if there != list(options[: len(there)]):
        letter = chr(ord("A") + list(options).index(None))
        raise UserError(f"{where} has no option {letter}, but one behind it")
    return tuple(there)


def require_fields(row: Any, fields: Sequence[str], where: str) -> None:
    """Refuse a row that lacks a field.

    Raises:
        UserError: naming the place and the field.
    """
    if not isinstance(row, dict):
        raise UserError(f"{where} is not an object with fields")
    if missing := [name for name in fields if name not in row]:
        there = ", ".join(sorted(row)) or "none"
        raise UserError(f"{where} has no field {missing[0]!r}; it has {there}")
