"""The files in which benchmarks are published, as their authors lay them out.

| task | `--data` |
|---|---|
| vqav2 | folder with `v2_OpenEnded_*_questions.json` and `v2_*_annotations.json`, or the first |
| textvqa | `TextVQA_0.5.1_val.json` |
| gqa | `testdev_balanced_questions.json` |
| pope | `coco_pope_random.json`, or a folder with the three |
| mme | folder with one folder a category |
| seedbench | `SEED-Bench.json` |
| mmbench | `MMBench_DEV_EN.tsv` (see `tables.py`) |
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from eval.vqa.benchmarks.question_set import QuestionSet, answer_texts, lettered, require_fields
from eval.vqa.scorers.pope import SPLITS
from eval.vqa.scorers.task import BenchmarkQuestion
from runtime.errors import UserError
from runtime.files import read_json


def read_vqav2(path: Path) -> QuestionSet:
    """Questions and annotations of VQAv2, joined by question id; the category has both types."""
    questions_file = _one_file(path, "*questions.json") if path.is_dir() else path
    annotations_file = _annotations_of(questions_file)
    asked = _list_in(questions_file, "questions")
    annotations = _list_in(annotations_file, "annotations", ("question_id", "answers"))
    annotated = {str(row["question_id"]): row for row in annotations}
    _refuse_repeated([str(row["question_id"]) for row in annotations], annotations_file)
    subset = read_json(questions_file).get("data_subtype", "val2014")
    questions = []
    for number, row in enumerate(asked, start=1):
        where = f"question {number} of {questions_file}"
        require_fields(row, ("question_id", "image_id", "question"), where)
        key = str(row["question_id"])
        if key not in annotated:
            raise UserError(
                f"question {key} of {questions_file} has no annotation in {annotations_file}; give "
                "both files of one split"
            )
        answer = annotated[key]
        entries = answer["answers"]
        if isinstance(entries, list):
            entries = [
                entry.get("answer") if isinstance(entry, dict) else None for entry in entries
            ]
        types = (str(answer.get("answer_type", "")), str(answer.get("question_type", "")))
        questions.append(
            BenchmarkQuestion(
                question_id=key,
                question=row["question"],
                answers=answer_texts(
                    entries, f"the annotation of question {key} of {annotations_file}"
                ),
                category=", ".join(part for part in types if part),
                image_id=f"COCO_{subset}_{int(row['image_id']):012d}",
            )
        )
    extra = len(annotated) - len(questions)
    left_out = {"annotations without a question": extra} if extra > 0 else {}
    return QuestionSet(str(questions_file), questions, left_out)


def read_textvqa(path: Path) -> QuestionSet:
    """TextVQA's JSON; the images are named by their ids."""
    rows = _list_in(path, "data", ("question_id", "question", "image_id", "answers"))
    return QuestionSet(
        str(path),
        [
            BenchmarkQuestion(
                question_id=str(row["question_id"]),
                question=row["question"],
                answers=answer_texts(row["answers"], f"question {row['question_id']} of {path}"),
                category="",
                image_id=str(row["image_id"]),
            )
            for row in rows
        ],
    )


def read_gqa(path: Path) -> QuestionSet:
    """GQA's JSON, an object of questions by id; the category is the structural type."""
    rows = _read_keeping_ids(path)
    if not isinstance(rows, dict):
        raise UserError(f"{path} is not a file of GQA, which holds an object of questions by id")
    questions = []
    for key, row in rows.items():
        require_fields(row, ("question", "imageId", "answer"), f"question {key!r} of {path}")
        questions.append(
            BenchmarkQuestion(
                question_id=str(key),
                question=row["question"],
                answers=answer_texts([row["answer"]], f"question {key!r} of {path}"),
                category=str((row.get("types") or {}).get("structural", "")),
                image_id=str(row["imageId"]),
            )
        )
    return QuestionSet(str(path), questions)


def read_pope(path: Path) -> QuestionSet:
    """POPE's lines of JSON; ids start at 1 in each of the three files, so the split goes first."""
    files = sorted(path.glob("*pope*.json*")) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{path} holds no file of POPE, such as coco_pope_random.json")
    questions = []
    for file in files:
        split = next((name for name in SPLITS if name in file.stem), "")
        for number, row in enumerate(json_lines(file), start=1):
            require_fields(
                row, ("question_id", "image", "text", "label"), f"line {number} of {file}"
            )
            category = str(row.get("category") or split)
            key = str(row["question_id"])
            questions.append(
                BenchmarkQuestion(
                    question_id=f"{category}-{key}" if category else key,
                    question=row["text"],
                    answers=(str(row["label"]),),
                    category=category,
                    image_id=str(row["image"]),
                )
            )
    return QuestionSet(str(path), questions)


def read_mme(path: Path) -> QuestionSet:
    """MME's folders: for each image a text file, beside or below, "question TAB answer" a line."""
    if not path.is_dir():
        raise UserError(f"{path} is a file; give the folder of MME with one folder a category")
    questions = []
    for category in sorted(p for p in path.iterdir() if p.is_dir()):
        texts = category / "questions_answers_YN"
        for file in sorted((texts if texts.is_dir() else category).glob("*.txt")):
            try:
                lines = file.read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f"{file} cannot be read as text ({error})") from error
            for number, line in enumerate((x for x in lines if x.strip()), start=1):
                question, tab, answer = line.partition("\t")
                if not tab:
                    raise UserError(
                        f"line {number} of {file} has no tab between question and answer; MME has "
                        '"question TAB answer"'
                    )
                questions.append(
                    BenchmarkQuestion(
                        question_id=f"{category.name}/{file.stem}-{number}",
                        question=question,
                        answers=(answer.strip(),),
                        category=category.name,
                        group=file.stem,
                        image_id=f"{category.name}/{file.stem}",
                    )
                )
    if not questions:
        raise UserError(f"{path} holds no question of MME (CATEGORY/NAME.txt)")
    return QuestionSet(str(path), questions)


def read_seedbench(path: Path) -> QuestionSet:
    """SEED-Bench's JSON; its questions about videos are left out, and counted."""
    whole = read_json(path)
    rows = _list_in(path, "questions", ("question_id", "question", "answer", "data_id"))
    names = {number: name for name, number in (whole.get("question_type") or {}).items()}
    still = [row for row in rows if row.get("data_type", "image") == "image"]
    questions = []
    for row in still:
        options = [row.get(f"choice_{x}") for x in "abcd"]
        texts = [None if option is None else str(option) for option in options]
        kind = row.get("question_type_id", "")
        questions.append(
            BenchmarkQuestion(
                question_id=str(row["question_id"]),
                question=row["question"],
                answers=(str(row["answer"]).strip().upper(),),
                category=str(names.get(kind, kind)),
                options=lettered(texts, f"{path}, question {row['question_id']}"),
                image_id=str(row["data_id"]),
            )
        )
    videos = len(rows) - len(still)
    return QuestionSet(str(path), questions, {"questions about videos": videos} if videos else {})


READERS: dict[str, Callable[[Path], QuestionSet]] = {
    "vqav2": read_vqav2,
    "textvqa": read_textvqa,
    "gqa": read_gqa,
    "pope": read_pope,
    "mme": read_mme,
    "seedbench": read_seedbench,
}


def json_lines(path: Path) -> Iterator[Any]:
    """The values of a file with one JSON value a line.

    Raises:
        UserError: naming the line that is none.
    """
    try:
        # Not splitlines, which also cuts at characters that JSON leaves in a text, such as U+2028.
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as text ({error})") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(
                f"line {number} of {path} is not valid JSON: {error.msg.lower()}"
            ) from error


def _read_keeping_ids(path: Path) -> Any:
    """The file's JSON; a key twice in one object, of which readers keep the last, is refused."""
    value = read_json(path)  # whose sentences name what is broken

    def check(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _refuse_repeated([key for key, _ in pairs], path)
        return {}

    json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=check)
    return value


def _refuse_repeated(keys: list[str], path: Path) -> None:
    if len(set(keys)) < len(keys):
        key = Counter(keys).most_common(1)[0][0]
        raise UserError(
            f"{path} has the question id {key!r} more than once; give every question an id of its "
            "own"
        )


def _list_in(path: Path, key: str, fields: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    value = read_json(path)
    if not isinstance(value, dict) or not isinstance(value.get(key), list):
        raise UserError(
            f'{path} has no list "{key}"; it is not the file that the benchmark publishes'
        )
    for number, row in enumerate(value[key], start=1):
        require_fields(row, fields, f"entry {number} of {path}")
    return value[key]


def _one_file(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise UserError(f"{folder} holds {len(found)} files {pattern}; name the one to read")
    return found[0]


def _annotations_of(questions: Path) -> Path:
    """`v2_OpenEnded_mscoco_val2014_questions.json` → `v2_mscoco_val2014_annotations.json`."""
    name = questions.name.replace("OpenEnded_", "").replace("questions", "annotations")
    if name != questions.name and (questions.parent / name).is_file():
        return questions.parent / name
    return _one_file(questions.parent, "*annotations.json")
