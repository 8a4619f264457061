"""Saved predictions, of this program or of other systems, and the questions they answer."""

import contextlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.measures.conditions import UNKNOWN
from eval.measures.file_names import one_form
from eval.vqa.answering import SavedAnswer
from eval.vqa.benchmarks.question_set import QuestionSet
from eval.vqa.scorers.task import BenchmarkQuestion, Judged
from runtime.errors import UserError
from runtime.files import read_json
from runtime.json_lines import json_values

ID_NAMES = ("question_id", "questionId", "id", "index")
CLEAR_NAMES = ("prediction", "pred_answer", "pred", "response", "output")
"""What a model said goes by these names alone."""
ANSWER_NAMES = (*CLEAR_NAMES, "answer", "text")
"""Some files call the truth "answer", and the question "text", beside a model's answer."""
QUESTION_NAMES = ("question", "prompt")

Row = dict[str, Any]


def prediction_rows(
    judged: Sequence[Judged], answers: dict[str, SavedAnswer] | None = None
) -> list[Row]:
    """Rows of `predictions.jsonl`: all that is needed to score them again, but the images."""
    rows = []
    for entry in judged:
        q = entry.question
        scores = answers[q.question_id].option_scores if answers else None
        optional = {"group": q.group, "options": list(q.options), "option_scores": scores}
        row: Row = {
            "question_id": q.question_id,
            "image_id": q.image_id,
            "question": q.question,
            "answers": list(q.answers),
            "prediction": entry.prediction,
            "read_as": entry.read_as,
            "score": entry.score,
            "correct": entry.score == 1,
            "type": q.category,
        }
        rows.append(row | {name: value for name, value in optional.items() if value})
    return rows


def read_predictions(path: Path) -> list[Row]:
    """Rows of a predictions file: JSONL, a JSON list, or MMMU's one object of id to answer.

    Raises:
        UserError: if it is none of these, is empty, or a row has no answer that is a text, or two
            of which one may be the truth.
    """
    if path.is_dir():
        path = path / "predictions.jsonl"
    if not path.is_file():
        raise UserError(f"no such file of predictions: {path}")
    if not (rows := _raw_rows(path)):
        raise UserError(f"{path} holds no predictions, so there is nothing to score")
    for number, row in enumerate(rows, start=1):
        where = f"prediction {number} of {path}"
        names = _answer_names(row) if isinstance(row, dict) else ()
        if not names:
            known = ", ".join(ANSWER_NAMES)
            raise UserError(f"{where} has no answer under any of the names {known}")
        if len(names) > 1:
            raise UserError(
                f"{where} has {' and '.join(map(repr, names))}, one of which may be the truth or "
                "the question; call the model's answer 'prediction'"
            )
        if not isinstance(row[names[0]], str):
            raise UserError(f"the answer of {where} is not a text")
    return rows


def _raw_rows(path: Path) -> list[Any]:
    start = path.read_bytes()[:99].decode("utf-8-sig", "replace").lstrip()
    if start.startswith("["):
        return list(read_json(path))
    if start.startswith("{"):
        try:  # as pairs, since an object may hold a question twice
            pairs = json.loads(path.read_bytes().decode("utf-8-sig"), object_pairs_hook=list)
        except ValueError:  # several lines of JSON
            pairs = []
        # A single line with a field of a row is a row.
        is_row = {*ID_NAMES, *ANSWER_NAMES} & {key for key, _ in pairs}
        if pairs and not is_row and all(isinstance(text, str) for _, text in pairs):
            return [{"question_id": key, "prediction": text} for key, text in pairs]
    return [row for _, row in json_values(path)]


def _answer_names(row: Row) -> list[str]:
    """The names that the answer may have; one, unless the row can be read in two ways."""
    clear = [name for name in CLEAR_NAMES if name in row]
    return clear[:1] if "prediction" in clear else clear or [n for n in ANSWER_NAMES if n in row]


def questions_of(rows: Sequence[Row], path: Path) -> QuestionSet:
    """The questions that this program saves with its predictions.

    Raises:
        UserError: if the rows have none, as those of other systems.
    """
    if not all({"question_id", "question", "answers"} <= row.keys() for row in rows):
        raise UserError(
            f"{path} holds answers without their questions; give the benchmark's file with --data"
        )
    questions = [
        BenchmarkQuestion(
            question_id=str(row["question_id"]),
            question=row["question"],
            answers=tuple(row["answers"]),
            category=row.get("type", ""),
            group=row.get("group", ""),
            options=tuple(row.get("options", ())),
            image_id=row.get("image_id", ""),
        )
        for row in rows
    ]
    return QuestionSet(str(path), questions)


def match(rows: Sequence[Row], found: QuestionSet, path: Path) -> dict[str, str]:
    """Predictions by the questions' ids: every question once, and nothing else.

    Ids are compared as text. POPE's ids start at 1 in each split, so a row's `category` may go
    first, and rows without any id stand in the order of the questions, as in POPE's own script.
    Where a row has the question or the prompt, that must be the question's too.

    Raises:
        UserError: if questions have no prediction or two, or predictions are of other questions.
    """
    wanted = {one_form(q.question_id): q.question_id for q in found.questions}
    keys = [wanted.get(one_form(key), key) for key in _ids(rows, found, path)]
    if repeated := [key for key, number in Counter(keys).items() if number > 1]:
        raise UserError(
            f"{path} has {len(repeated):,} questions with more than one prediction, such as "
            f"{repeated[0]!r}; keep one of each"
        )
    if foreign := [key for key in keys if one_form(key) not in wanted]:
        raise UserError(
            f"{len(foreign):,} of {len(keys):,} predictions in {path} are of questions that "
            f"{found.source} does not have, such as {foreign[0]!r}; give the split that they answer"
        )
    if absent := sorted({*wanted.values()} - set(keys)):
        raise UserError(
            f"{len(absent):,} of {len(wanted):,} questions of {found.source} have no prediction in "
            f"{path}, such as {absent[0]!r}; all must be answered"
        )
    _refuse_other_questions(rows, keys, found, path)
    return {key: str(row[_answer_names(row)[0]]) for key, row in zip(keys, rows, strict=True)}


def _refuse_other_questions(
    rows: Sequence[Row], keys: Sequence[str], found: QuestionSet, path: Path
) -> None:
    """Ids alone do not tell POPE's splits apart, each of which counts from 1."""
    asked = {q.question_id: q.question for q in found.questions}
    others = []
    for number, (row, key) in enumerate(zip(rows, keys, strict=True), start=1):
        said = row.get(str(_field(row, QUESTION_NAMES)))
        if isinstance(said, str) and not _is_same_question(asked[key], said):
            others.append((number, key, said))
    if others:
        number, key, said = others[0]
        raise UserError(
            f"{len(others):,} of {len(rows):,} predictions in {path} answer other questions than "
            f"{found.source} asks under their ids or in their places: prediction {number} answers "
            f"{said[:80]!r}, and question {key!r} is {asked[key][:80]!r}; give the split that they "
            "answer"
        )


def _is_same_question(question: str, said: str) -> bool:
    """Whether a prompt holds a question, up to its "?"; instructions stand before and behind."""
    head = question.partition("?")[0]
    wanted, text = (re.sub(r"<image[ \d]*>|\W", "", each.lower()) for each in (head, said))
    return wanted in text or (bool(text) and text in re.sub(r"\W", "", question.lower()))


def _ids(rows: Sequence[Row], found: QuestionSet, path: Path) -> list[str]:
    named = [_field(row, ID_NAMES) for row in rows]
    if all(name is None for name in named):
        if len(rows) != len(found.questions):
            raise UserError(
                f"{path} has {len(rows):,} predictions without ids, and {found.source} "
                f"{len(found.questions):,} questions: they cannot be told apart by their order"
            )
        return [q.question_id for q in found.questions]
    if None in named:
        raise UserError(f"prediction {named.index(None) + 1} of {path} has no id")
    keys = [str(row[str(name)]) for row, name in zip(rows, named, strict=True)]
    # Where the benchmark's file is of one split, its answers need not name it.
    splits = {q.category for q in found.questions}
    only = splits.pop() if len(splits) == 1 else None
    categories = [row.get("category", only) for row in rows]
    known = {one_form(q.question_id) for q in found.questions}
    if all(categories) and not known & set(map(one_form, keys)):
        return [f"{category}-{key}" for category, key in zip(categories, keys, strict=True)]
    return keys


def made_by(path: Path) -> Row:
    """What is known of who made the predictions: the summary beside them, if it is of ours."""
    names = ("model", "checkpoint_fingerprint", "decoding", "instruction", "seed", "data",
             "data_fingerprint", "image_crop", "image_resolution")  # fmt: skip
    known: Row = dict.fromkeys(names)
    if path.is_dir() or path.name == "predictions.jsonl":
        with contextlib.suppress(UserError):
            summary = read_json((path if path.is_dir() else path.parent) / "summary.json")
            known |= {name: summary.get(name) for name in names}
    known["decoding"] = known["decoding"] or f"{UNKNOWN}: answers of another system"
    return known


def _field(row: Row, names: Sequence[str]) -> str | None:
    return next((name for name in names if name in row), None)
