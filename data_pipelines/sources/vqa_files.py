"""VQAv2, GQA and TextVQA as they are published: JSON files of questions, and a folder of images.

Questions about one image make one record, whose id is the image's.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data_pipelines.images import MAX_FILE_SIZE
from data_pipelines.records import Question, Record, Reject
from data_pipelines.safe_files import read_named
from data_pipelines.sources.columns import id_of, text_of, texts_of
from data_pipelines.sources.rows import Rows, guarded
from runtime.errors import UserError
from runtime.files import read_json

Entry = tuple[str, str, Any]  # image id, question id, and what the question is made of


def read_vqav2(questions: Path, annotations: Path, images: Path) -> Rows:
    """VQAv2: `v2_OpenEnded_mscoco_*_questions.json` and `v2_mscoco_*_annotations.json`.

    An image is `COCO_train2014_000000458752.jpg`, by the questions' `data_subtype`.

    Raises:
        UserError: if a file is not laid out as published.
    """
    asked, answered = read_json(questions), read_json(annotations)
    subtype = asked.get("data_subtype") if isinstance(asked, dict) else None
    if not isinstance(subtype, str):
        raise UserError(f"{questions} has no data_subtype, as VQAv2's questions have")
    answers: dict[str, Any] = {}
    for entry in _list_of(answered, "annotations", annotations):
        if isinstance(entry, dict):
            answers[str(entry.get("question_id"))] = entry.get("answers")

    def question(entry: Any) -> Question:
        question_id = id_of(entry["question_id"])
        if question_id not in answers:
            raise ValueError(f"the question {question_id} has no annotation")
        given = [answer["answer"] for answer in answers[question_id]]
        return Question(
            text_of(entry["question"], "question"), texts_of(given, "answer"), question_id
        )

    entries = _by_image(_list_of(asked, "questions", questions), "image_id")
    return _rows(
        questions.stem, entries, question, images,
        lambda image_id: f"COCO_{subtype}_{int(image_id):012d}.jpg",
    )  # fmt: skip


def read_gqa(questions: Path, images: Path) -> Rows:
    """GQA: `*_balanced_questions.json`, question id -> {imageId, question, answer, ...}.

    Raises:
        UserError: if the file is not laid out as published.
    """
    asked = read_json(questions)
    if not isinstance(asked, dict) or not asked:
        raise UserError(f"{questions} holds no questions by their ids, as GQA's does")

    def question(entry: Any) -> Question:
        question_id, found = entry
        return Question(
            text_of(found["question"], "question"),
            texts_of(found["answer"], "answer"),
            str(question_id),
        )

    entries: dict[str, list[Any]] = {}
    for question_id, found in asked.items():
        image_id = found.get("imageId") if isinstance(found, dict) else None
        entries.setdefault(str(image_id), []).append((question_id, found))
    return _rows(questions.stem, entries, question, images, lambda image_id: f"{image_id}.jpg")


def read_textvqa(questions: Path, images: Path) -> Rows:
    """TextVQA: `TextVQA_0.5.1_*.json`, a list `data` of questions with ten answers each.

    Raises:
        UserError: if the file is not laid out as published.
    """
    asked = read_json(questions)

    def question(entry: Any) -> Question:
        return Question(
            text_of(entry["question"], "question"),
            texts_of(entry["answers"], "answer"),
            id_of(entry["question_id"]),
        )

    entries = _by_image(_list_of(asked, "data", questions), "image_id")
    return _rows(questions.stem, entries, question, images, lambda image_id: f"{image_id}.jpg")


def _list_of(value: Any, key: str, path: Path) -> list[Any]:
    """A list inside a file's object."""
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, list) or not found:
        raise UserError(f"{path} holds no list of {key}")
    return found


def _by_image(entries: Iterable[Any], key: str) -> dict[str, list[Any]]:
    """Entries of each image, in the order in which the images are first named."""
    found: dict[str, list[Any]] = {}
    for entry in entries:
        image_id = entry.get(key) if isinstance(entry, dict) else None
        found.setdefault(str(image_id), []).append(entry)
    return found


def _rows(stem: str, entries: dict[str, list[Any]], question: Any, images: Path, file: Any) -> Rows:
    """A record for each image, with the questions about it."""
    image_ids = list(entries)

    def read(index: int) -> Record | Reject:
        image_id = image_ids[index]

        def record() -> Record:
            if image_id == "None":
                raise ValueError("the question names no image")
            asked = [question(entry) for entry in entries[image_id]]
            image = read_named(images, file(image_id), MAX_FILE_SIZE)
            return Record(image_id, image, questions=asked)

        item = guarded(stem, index, record)
        return Reject(image_id, item.reason) if isinstance(item, Reject) else item

    return Rows(len(image_ids), read)
