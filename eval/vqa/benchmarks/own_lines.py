"""One's own questions: a JSON object a line, with `image`, `question` and `answers`."""

from collections import Counter
from pathlib import Path
from typing import Any

from eval.vqa.benchmarks.question_set import QuestionSet, answer_texts, require_fields
from eval.vqa.scorers.multiple_choice import LETTERS
from eval.vqa.scorers.task import BenchmarkQuestion
from runtime.errors import UserError
from runtime.json_lines import first_given, json_values, unread_fields

FIELDS = (
    "image", "question", "answers", "answer", "options", "id", "question_id", "category", "group",
)  # fmt: skip
MEANT = {
    "choices": "options", "type": "category", "question_type": "category", "image_path": "image",
    "text": "question", "label": "answer",
}  # fmt: skip
"""Fields that are not read, and those that they may have meant."""


def read_own_lines(path: Path) -> QuestionSet:
    """Questions from a JSONL file.

    A line has `image` (a path below the file's folder), `question`, and `answers` (a list) or
    `answer`; and it may have `options` (a list of texts, of which the answer is a letter or the
    whole text), `id` (else the line's number), `category` and `group`. Other fields are not read;
    `left_out` counts their values.

    Raises:
        UserError: naming the line that is not so.
    """
    questions, unread = [], Counter[str]()
    for number, row in json_values(path):
        where = f"line {number} of {path}"
        require_fields(row, ("image", "question"), where)
        unread.update(row.keys() - {*FIELDS})
        answers = first_given(row, "answers", "answer")
        if answers is None:
            raise UserError(f"{where} has neither 'answers' nor 'answer'")
        answers = [answers] if isinstance(answers, str | int | float) else answers
        options = row.get("options") or []
        for name, value in (("answers", answers), ("options", options)):
            if not isinstance(value, list):
                raise UserError(f"{where} has {name!r} that are not a list")
        options = list(map(str, options))
        questions.append(
            BenchmarkQuestion(
                question_id=str(first_given(row, "id", "question_id", default=number)),
                question=_text(row, "question", where),
                answers=tuple(_letter(answer, options) for answer in answer_texts(answers, where)),
                category=str(row.get("category", "")),
                group=str(row.get("group", "")),
                options=tuple(options),
                image_id=_text(row, "image", where),
            )
        )
    return QuestionSet(str(path), questions, unread_fields(unread, FIELDS, MEANT))


def _text(row: dict[str, Any], name: str, where: str) -> str:
    if not isinstance(row[name], str):
        raise UserError(f"{where} has {name!r} that is not a text")
    return row[name]


def _letter(answer: str, options: list[str]) -> str:
    """The letter of an answer given as the text of an option; a letter stays."""
    if answer in options and answer not in list(LETTERS[: len(options)]):
        return LETTERS[options.index(answer)]
    return answer
