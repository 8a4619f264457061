"""The files in which benchmarks are published, as their authors lay them out.

The table of docs/evaluation.md names them, in the column of local data.
"""

import base64
import csv
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eval.measures.file_names import sorted_files
from eval.vqa.benchmarks.question_set import QuestionSet, require_fields
from eval.vqa.benchmarks.rows import read_row
from eval.vqa.scorers.pope import SPLITS
from eval.vqa.scorers.task import BenchmarkQuestion
from runtime.errors import UserError
from runtime.files import read_json
from runtime.json_lines import json_values

NamedRows = Iterator[tuple[str, Any]]
"""Rows, each with its place for errors ("question 3 of FILE"); or the reason why one is left out. A
row that holds its picture has it as `image_data`, and the picture's name as `image_key`."""


def read_published(task: str, path: Path) -> QuestionSet:
    """A benchmark, one of `TASKS_WITH_FILES`, from the files of its authors.

    Raises:
        UserError: naming what is missing, repeated, or not laid out as in the published file.
    """
    if task == "mme":
        return _read_mme(path)
    questions, left_out = [], Counter[str]()
    for where, row in _READERS[task](path):
        found = row if isinstance(row, str) else read_row(task, row, where)
        if isinstance(found, str):
            left_out[found] += 1
        elif "image_data" in row:
            image = (row["image_data"],)
            questions.append(replace(found, image_id=row["image_key"], images=image))
        else:
            questions.append(found)
    return QuestionSet(str(path), questions, dict(left_out))


def _vqav2(path: Path) -> NamedRows:
    """Questions and annotations, joined by question id."""
    questions_file = _one_file(path, "*questions.json") if path.is_dir() else path
    annotations_file = _annotations_of(questions_file)
    annotations = _list_in(annotations_file, "annotations", ("question_id", "answers"))
    annotated = {str(row["question_id"]): row for row in annotations}
    _refuse_repeated([str(row["question_id"]) for row in annotations], annotations_file)
    subset = read_json(questions_file).get("data_subtype", "val2014")
    rows = _list_in(questions_file, "questions", ("question_id", "image_id", "question"))
    for row in rows:
        key = str(row["question_id"])
        if key not in annotated:
            raise UserError(
                f"question {key} of {questions_file} has no annotation in {annotations_file}; give "
                "both files of one split"
            )
        image = {"image_id": f"COCO_{subset}_{int(row['image_id']):012d}"}
        where = f"the annotation of question {key} of {annotations_file}"
        yield where, annotated[key] | row | image
    for key in annotated.keys() - {str(row["question_id"]) for row in rows}:
        yield f"the annotation of question {key}", "annotations without a question"


def _textvqa(path: Path) -> NamedRows:
    for row in _list_in(path, "data", ("question_id", "question", "image_id", "answers")):
        yield f"question {row['question_id']} of {path}", row


def _gqa(path: Path) -> NamedRows:
    rows = read_json(path)  # whose sentences name what is broken
    text = path.read_text(encoding="utf-8-sig")
    # Readers keep the last of several values under one key of an object.
    json.loads(text, object_pairs_hook=lambda pairs: _refuse_repeated([k for k, _ in pairs], path))
    if not isinstance(rows, dict):
        raise UserError(f"{path} is not a file of GQA, which holds an object of questions by id")
    for key, row in rows.items():
        where = f"question {key!r} of {path}"
        require_fields(row, ("question", "imageId", "answer"), where)
        yield where, row | {"id": key}


def _pope(path: Path) -> NamedRows:
    files = sorted_files(path.glob("*pope*.json*")) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{path} holds no file of POPE, such as coco_pope_random.json")
    for file in files:
        split = next((name for name in SPLITS if name in file.stem), "")
        for number, row in json_values(file):
            where = f"line {number} of {file}"
            require_fields(row, ("question_id", "image", "text", "label"), where)
            kept = {"question": row["text"], "answer": row["label"], "image_source": row["image"]}
            yield where, row | kept | {"category": row.get("category") or split}


def _seedbench(path: Path) -> NamedRows:
    rows = _list_in(path, "questions", ("question_id", "question", "answer", "data_id"))
    kinds = read_json(path).get("question_type") or {}
    names = {number: name for name, number in kinds.items()}
    for row in rows:
        kind = row.get("question_type_id", "")
        kind = {"question_type_id": names.get(kind, kind)}
        yield f"{path}, question {row['question_id']}", row | kind


def _mmbench(path: Path) -> NamedRows:
    """MMBench's TSV; a short image is the index of the row that holds it."""
    csv.field_size_limit(sys.maxsize)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a table with tabs ({error})") from error
    images = {str(row.get("index")): row.get("image") or "" for row in rows}
    for number, row in enumerate(rows, start=1):
        where = f"row {number} of {path}"
        require_fields(row, ("index",), where)
        key = str(row["index"])
        key = images[key] if len(images[key]) < 64 and images[key] in images else key
        encoded = images[key]
        if len(encoded) < 64:
            raise UserError(f"{where} has no image; MMBench's TSV holds it as base64")
        yield where, row | {"image_data": _Base64(encoded), "image_key": key}


def _read_mme(path: Path) -> QuestionSet:
    """MME's folders: for each image a text file, beside or below, "question TAB answer" a line."""
    if not path.is_dir():
        raise UserError(f"{path} is a file; give the folder of MME with one folder a category")
    questions = []
    for category in sorted_files(p for p in path.iterdir() if p.is_dir()):
        texts = category / "questions_answers_YN"
        for file in sorted_files((texts if texts.is_dir() else category).glob("*.txt")):
            try:
                lines = file.read_text(encoding="utf-8-sig").split("\n")
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f"{file} cannot be read as text ({error})") from error
            for number, line in enumerate((x for x in lines if x.strip()), start=1):
                question, tab, answer = line.partition("\t")
                if not tab:
                    raise UserError(
                        f"line {number} of {file} has no tab between question and answer; MME has "
                        '"question TAB answer"'
                    )
                image = f"{category.name}/{file.stem}"
                questions.append(
                    BenchmarkQuestion(
                        question_id=f"{image}-{number}",
                        question=question,
                        answers=(answer.strip(),),
                        category=category.name,
                        group=file.stem,
                        image_id=image,
                    )
                )
    if not questions:
        raise UserError(f"{path} holds no question of MME (CATEGORY/NAME.txt)")
    return QuestionSet(str(path), questions)


_READERS: dict[str, Callable[[Path], NamedRows]] = {
    "vqav2": _vqav2,
    "textvqa": _textvqa,
    "gqa": _gqa,
    "pope": _pope,
    "seedbench": _seedbench,
    "mmbench": _mmbench,
}
TASKS_WITH_FILES = {*_READERS, "mme"}


@dataclass(frozen=True)
class _Base64:
    """An image written as text."""

    text: str

    def __call__(self) -> bytes:
        try:
            return base64.b64decode(self.text)
        except ValueError as error:
            raise UserError(f"an image is not written as base64: {self.text[:20]!r}…") from error


def _refuse_repeated(keys: list[str], path: Path) -> None:
    if len(set(keys)) < len(keys):
        key = Counter(keys).most_common(1)[0][0]
        own = "give every question an id of its own"
        raise UserError(f"{path} has the question id {key!r} more than once; {own}")


def _list_in(path: Path, key: str, fields: tuple[str, ...]) -> list[dict[str, Any]]:
    value = read_json(path)
    if not isinstance(value, dict) or not isinstance(value.get(key), list):
        raise UserError(
            f'{path} has no list "{key}"; it is not the file that the benchmark publishes'
        )
    for number, row in enumerate(value[key], start=1):
        require_fields(row, fields, f"entry {number} of {path}")
    return value[key]


def _one_file(folder: Path, pattern: str) -> Path:
    found = sorted_files(folder.glob(pattern))
    if len(found) != 1:
        raise UserError(f"{folder} holds {len(found)} files {pattern}; name the one to read")
    return found[0]


def _annotations_of(questions: Path) -> Path:
    """`v2_OpenEnded_mscoco_val2014_questions.json` → `v2_mscoco_val2014_annotations.json`."""
    name = questions.name.replace("OpenEnded_", "").replace("questions", "annotations")
    if name != questions.name and (questions.parent / name).is_file():
        return questions.parent / name
    return _one_file(questions.parent, "*annotations.json")
