"""VQAv2, GQA and TextVQA as they are published: JSON files of questions, and a folder of images.

Questions about one image make one record, whose id is the image's. A question that cannot be used
is rejected by its own id, and the others stay.
"""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from data_pipelines.records import Question, Record, Reject
from data_pipelines.safe_files import read_named
from data_pipelines.sources.columns import answers_of, is_absent, text_of
from data_pipelines.sources.rows import Found, Rows, attempt, guarded
from runtime.errors import UserError
from runtime.files import read_json, unique_keys

Entry = tuple[str, str | None, Callable[[], tuple[Any, Any]]]
"""Question id, image id if there is one, and what reads the question and its answers."""


def read_vqav2(questions: Path, annotations: Path, images: Path) -> Rows:
    """VQAv2: `v2_OpenEnded_mscoco_*_questions.json` and `v2_mscoco_*_annotations.json`.

    An image is `COCO_train2014_000000458752.jpg`, by the questions' `data_subtype`.
    """
    asked, answered = (read_json(path, unique_keys) for path in (questions, annotations))
    subtype = asked.get("data_subtype") if isinstance(asked, dict) else None
    if not isinstance(subtype, str):
        raise UserError(f"{questions} has no data_subtype, as VQAv2's questions have")
    answers: dict[str, Any] = {}
    twice = set()
    for number, entry in enumerate(_list_of(answered, "annotations", annotations)):
        found = entry if isinstance(entry, dict) else {}
        question_id = found.get("question_id")
        name = f"{annotations.stem}#{number}" if is_absent(question_id) else str(question_id)
        if answers.setdefault(name, found.get("answers")) != found.get("answers"):
            twice.add(name)

    def read(entry: Any) -> tuple[Any, Any]:
        question_id = str(entry["question_id"])
        if question_id in twice:
            raise ValueError(f"the question {question_id} has two annotations, which differ")
        given = answers.get(question_id)
        if given is None:
            raise ValueError(f"the question {question_id} has no annotation")
        # An answer without its text is left to be rejected alone.
        texts = [one.get("answer", one) if isinstance(one, dict) else one for one in given]
        return entry["question"], texts

    entries = _entries(_list_of(asked, "questions", questions), questions.stem, read)
    used = {question_id for question_id, _, _ in entries}
    left = [question_id for question_id in answers if question_id not in used]
    notes = [
        f"{len(left):,} annotations of {annotations} have no question, the first is {question_id}"
        for question_id in left[:1]
    ]

    def file(image_id: str) -> str:
        if not image_id.isdecimal():
            raise ValueError(f"the image id {image_id[:100]!r} is no number")
        return f"COCO_{subtype}_{int(image_id):012d}.jpg"

    return _rows(entries, images, file, tuple(notes))


def read_gqa(questions: Path, images: Path) -> Rows:
    """GQA: `*_balanced_questions.json`, question id -> {imageId, question, answer, ...}."""
    asked = read_json(questions, _Pairs.unless_unique)
    if not isinstance(asked, dict | _Pairs) or not asked:
        raise UserError(f"{questions} holds no questions by their ids, as GQA's does")
    entries = []
    for question_id, found in asked if isinstance(asked, _Pairs) else asked.items():
        image_id = dict(found).get("imageId") if isinstance(found, dict | _Pairs) else None
        entries.append({"question_id": question_id, "image_id": image_id, "found": found})

    def read(entry: Any) -> tuple[Any, Any]:
        if isinstance(entry["found"], _Pairs):
            raise ValueError("a key of its entry comes twice")
        return entry["found"]["question"], entry["found"]["answer"]

    return _rows(_entries(entries, questions.stem, read), images, "{}.jpg".format)


def read_textvqa(questions: Path, images: Path) -> Rows:
    """TextVQA: `TextVQA_0.5.1_*.json`, a list `data` of questions with ten answers each."""
    entries = _list_of(read_json(questions, unique_keys), "data", questions)
    read = lambda entry: (entry["question"], entry["answers"])  # noqa: E731
    return _rows(_entries(entries, questions.stem, read), images, "{}.jpg".format)


class _Pairs(list):
    """Keys and values of a JSON object in which a key comes twice."""

    @classmethod
    def unless_unique(cls, pairs: list[tuple[str, Any]]) -> Any:
        found = dict(pairs)
        return found if len(found) == len(pairs) else cls(pairs)


def _list_of(value: Any, key: str, path: Path) -> list[Any]:
    """A list inside a file's object."""
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, list) or not found:
        raise UserError(f"{path} holds no list of {key}")
    return found


def _entries(
    entries: Iterable[Any], stem: str, read: Callable[[Any], tuple[Any, Any]]
) -> list[Entry]:
    """Entries by their ids; one without an id is called by its file and number."""
    found: list[Entry] = []
    seen = set()
    for number, entry in enumerate(entries):
        ids = entry if isinstance(entry, dict) else {}
        question_id, image_id = (
            None if is_absent(value := ids.get(key)) else str(value)
            for key in ("question_id", "image_id")
        )
        name = question_id or f"{stem}#{number}"
        found.append((name, image_id, partial(_refuse if name in seen else read, entry)))
        seen.add(name)
    return found


def _refuse(entry: Any) -> tuple[Any, Any]:
    raise ValueError("another question of this id came before")


def _rows(
    entries: list[Entry], images: Path, file: Callable[[str], str], notes: tuple[str, ...] = ()
) -> Rows:
    """A record for each image, in the order in which they are first named."""
    groups: dict[str | None, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry[1], []).append(entry)
    image_ids = list(groups)

    def read(index: int) -> Found:
        image_id = image_ids[index]
        mine = groups[image_id]
        rejects: list[Reject] = []
        image = attempt(rejects, str(image_id), _image, images, image_id, file)
        if image is None:
            return Found(None, [Reject(entry[0], rejects[0].reason) for entry in mine])
        questions = [attempt(rejects, entry[0], _question, entry) for entry in mine]
        good = [question for question in questions if question is not None]
        return Found(Record(str(image_id), image, questions=good), rejects)

    return Rows(len(image_ids), lambda index: guarded(str(image_ids[index]), read, index), notes)


def _image(images: Path, image_id: str | None, file: Callable[[str], str]) -> bytes:
    if image_id is None:
        raise ValueError("the question names no image")
    return read_named(images, file(image_id))


def _question(entry: Entry) -> Question:
    question_id, _, read = entry
    asked, answers = read()
    return Question(text_of(asked, "question"), answers_of(answers), question_id, question_id)
