"""Benchmarks as tables: the copies on the hub, downloaded parquet files, and MMBench's TSV.

The columns are those of the copies by lmms-lab, which most of the field evaluates on:

| task | hub name, configuration, split | columns |
|---|---|---|
| vqav2 | lmms-lab/VQAv2, validation | question_id, question, answers [{answer}], answer_type, question_type, image |
| textvqa | lmms-lab/textvqa, validation | question_id, question, answers [text], image_id, image |
| gqa | lmms-lab/GQA, testdev_balanced_instructions, testdev | id, imageId, question, answer, types; images apart |
| pope | lmms-lab/POPE, test | question_id, question, answer, category, image |
| mme | lmms-lab/MME, test | question_id (the image), question, answer, category, image |
| seedbench | lmms-lab/SEED-Bench, test | question_id, question, choice_a ... choice_d, answer, data_type, image [ ] |
| mmbench | lmms-lab/MMBench, en, dev | index, question, hint, A ... E, answer, category, image |
| mmmu | lmms-lab/MMMU, validation | id, question, options, answer, question_type, image_1 ... image_7 |
"""  # noqa: E501

import ast
import base64
import csv
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eval.vqa.benchmarks.question_set import QuestionSet, lettered, require_fields
from eval.vqa.scorers.task import BenchmarkQuestion, ImageSource
from runtime.errors import UserError

Row = Mapping[str, Any]


@dataclass(frozen=True)
class HubCopy:
    """Where a benchmark lies on the hub."""

    name: str
    """Data set."""
    split: str
    """The one that papers report."""
    config: str | None = None
    """Configuration with the questions."""
    images: str | None = None
    """Configuration with the images, where they are apart."""


HUB_COPIES = {
    "vqav2": HubCopy("lmms-lab/VQAv2", "validation"),
    "textvqa": HubCopy("lmms-lab/textvqa", "validation"),
    "gqa": HubCopy(
        "lmms-lab/GQA", "testdev", "testdev_balanced_instructions", "testdev_balanced_images"
    ),
    "pope": HubCopy("lmms-lab/POPE", "test"),
    "mme": HubCopy("lmms-lab/MME", "test"),
    "seedbench": HubCopy("lmms-lab/SEED-Bench", "test"),
    "mmbench": HubCopy("lmms-lab/MMBench", "dev", "en"),
    "mmmu": HubCopy("lmms-lab/MMMU", "validation"),
}


def read_hub(task: str, name: str | None = None, split: str | None = None) -> QuestionSet:
    """A benchmark from the hub, or from the hub's cache on this machine.

    Args:
        task: one of `HUB_COPIES`.
        name: another data set with the same columns.
        split: another split.

    Raises:
        UserError: if it cannot be had, or has other columns.
    """
    copy = HUB_COPIES[task]
    name, split = name or copy.name, split or copy.split
    table = _load(name, copy.config, split)
    found = read_table(task, table, f"{name} ({split})")
    if copy.images and "image" not in table.column_names:
        pictures = _load(name, copy.images, split)
        place = {str(key): index for index, key in enumerate(pictures["id"])}
        missing = [q.image_id for q in found.questions if q.image_id not in place]
        if missing:
            raise UserError(f"{found.source} lacks {len(missing):,} images, such as {missing[0]!r}")
        found = replace(
            found,
            questions=[
                replace(q, images=(_cell(pictures, place[q.image_id], "image"),))
                for q in found.questions
            ],
        )
    return found


def read_parquet(task: str, path: Path) -> QuestionSet:
    """A benchmark from parquet files with the columns of its copy on the hub."""
    import datasets

    files = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
    datasets.disable_progress_bars()
    try:
        table = datasets.Dataset.from_parquet([str(file) for file in files])
    except Exception as error:  # pyarrow and datasets have no common one
        raise UserError(f"{path} cannot be read as parquet ({_one_line(error)})") from error
    return read_table(task, table, str(path))


def read_mmbench_tsv(path: Path) -> QuestionSet:
    """MMBench's TSV; a short image is the index of the row that holds it."""
    csv.field_size_limit(sys.maxsize)
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a table with tabs ({error})") from error
    images = {str(row.get("index")): row.get("image") or "" for row in rows}
    questions, left_out = [], Counter[str]()
    for number, row in enumerate(rows, start=1):
        where = f"row {number} of {path}"
        read = _FROM_ROW["mmbench"](row, where)
        if isinstance(read, str):
            left_out[read] += 1
            continue
        encoded, key = images[str(row["index"])], str(row["index"])
        if len(encoded) < 64 and encoded in images:
            encoded, key = images[encoded], encoded
        if len(encoded) < 64:
            raise UserError(f"{where} has no image; MMBench's TSV holds it as base64")
        questions.append(replace(read, image_id=key, images=(_Base64(encoded),)))
    return QuestionSet(str(path), questions, dict(left_out))


def read_table(task: str, table: Any, source: str) -> QuestionSet:
    """Questions from a `datasets.Dataset`; its images are decoded when they are needed.

    Raises:
        UserError: naming the first row that lacks a column.
    """
    import datasets

    if task not in _FROM_ROW:
        raise UserError(f"{source}: no table is known for {task}; give its published file")
    pictures = [
        name for name, kind in table.features.items() if "image" in name and _holds_images(kind)
    ]
    for name in pictures:
        kind = table.features[name]
        raw = datasets.Image(decode=False)
        is_list = not isinstance(kind, datasets.Image)
        table = table.cast_column(name, datasets.List(raw) if is_list else raw)
    texts = table.remove_columns(pictures)
    questions, left_out = [], Counter[str]()
    for index, row in enumerate(texts):
        read = _FROM_ROW[task](row, f"row {index + 1} of {source}")
        if isinstance(read, str):
            left_out[read] += 1
            continue
        wanted = [n for n in _image_columns(task, row) if n in pictures]
        cells = tuple(_cell(table, index, name) for name in wanted)
        questions.append(replace(read, images=cells, image_id=read.image_id or f"row {index}"))
    return QuestionSet(source, questions, dict(left_out))


def _vqav2(row: Row, where: str) -> BenchmarkQuestion | str:
    require_fields(dict(row), ("question_id", "question", "answers"), where)
    answers = row["answers"] or []
    if isinstance(answers, dict):  # older `datasets` turn a list of structs round
        answers = [{"answer": answer} for answer in answers["answer"]]
    types = (str(row.get("answer_type") or ""), str(row.get("question_type") or ""))
    return BenchmarkQuestion(
        str(row["question_id"]),
        row["question"],
        tuple(str(entry["answer"]) for entry in answers),
        category=", ".join(part for part in types if part),
        image_id=str(row.get("image_id", "")),
    )


def _textvqa(row: Row, where: str) -> BenchmarkQuestion | str:
    require_fields(dict(row), ("question_id", "question", "answers"), where)
    answers = tuple(str(answer) for answer in row["answers"] or [])
    image = str(row.get("image_id", ""))
    return BenchmarkQuestion(str(row["question_id"]), row["question"], answers, image_id=image)


def _gqa(row: Row, where: str) -> BenchmarkQuestion | str:
    require_fields(dict(row), ("id", "imageId", "question", "answer"), where)
    kind = str((row.get("types") or {}).get("structural", ""))
    return BenchmarkQuestion(
        str(row["id"]), row["question"], (row["answer"],), kind, image_id=str(row["imageId"])
    )


def _pope(row: Row, where: str) -> BenchmarkQuestion | str:
    require_fields(dict(row), ("question_id", "question", "answer"), where)
    split = str(row.get("category") or "")
    key = str(row["question_id"])
    return BenchmarkQuestion(
        f"{split}-{key}" if split else key,
        row["question"],
        (str(row["answer"]).strip().lower(),),
        split,
        image_id=str(row.get("image_source") or ""),
    )


def _mme(row: Row, where: str) -> BenchmarkQuestion | str:
    require_fields(dict(row), ("question_id", "question", "answer", "category"), where)
    image = str(row["question_id"])  # of the image: both of its questions have it
    return BenchmarkQuestion(
        f"{image}: {row['question']}",
        row["question"],
        (row["answer"],),
        row["category"],
        group=image,
        image_id=image,
    )


def _seedbench(row: Row, where: str) -> BenchmarkQuestion | str:
    fields = ("question_id", "question", "choice_a", "choice_b", "answer")
    require_fields(dict(row), fields, where)
    if row.get("data_type", "image") != "image":
        return "questions about videos"
    options = [row.get(f"choice_{x}") for x in "abcd"]
    texts = [None if option is None else str(option) for option in options]
    return BenchmarkQuestion(
        str(row["question_id"]),
        row["question"],
        (str(row["answer"]).strip().upper(),),
        str(row.get("question_type_id", "")),
        options=lettered(texts, where),
        image_id=str(row.get("data_id", "")),
    )


def _mmbench(row: Row, where: str) -> BenchmarkQuestion | str:
    require_fields(dict(row), ("index", "question", "A", "B", "answer"), where)
    index = int(row["index"])
    hint = "" if _absent(row.get("hint")) else f"{row['hint']}\n"
    options = [None if _absent(row.get(x)) else str(row[x]) for x in "ABCDE"]
    return BenchmarkQuestion(
        str(index),
        f"{hint}{row['question']}",
        (str(row["answer"]).strip(),),
        str(row.get("category") or ""),
        group=str(index % 10**6),  # rotations of the options are 10⁶ apart
        options=lettered(options, where),
        image_id=str(index % 10**6),
    )


def _mmmu(row: Row, where: str) -> BenchmarkQuestion | str:
    require_fields(dict(row), ("id", "question", "options", "answer", "question_type"), where)
    options: tuple[str, ...] = ()
    if row["question_type"] == "multiple-choice":
        options = tuple(str(option) for option in _list(row["options"], where))
    answers = _list(row["answer"], where) if str(row["answer"]).startswith("[") else [row["answer"]]
    key = str(row["id"])
    return BenchmarkQuestion(
        key,
        row["question"],
        tuple(str(answer) for answer in answers),
        key.split("_", 1)[1].rsplit("_", 1)[0] if key.count("_") > 1 else "",
        options=options,
        image_id=key,
    )


_FROM_ROW: dict[str, Callable[[Row, str], BenchmarkQuestion | str]] = {
    "vqav2": _vqav2,
    "textvqa": _textvqa,
    "gqa": _gqa,
    "pope": _pope,
    "mme": _mme,
    "seedbench": _seedbench,
    "mmbench": _mmbench,
    "mmmu": _mmmu,
}
"""A row → its question, or why it is left out."""


def _image_columns(task: str, row: Row) -> list[str]:
    if task != "mmmu":
        return ["image"]
    # The images that the text names, in its order; one may be named in an option.
    named = re.findall(r"<image (\d)>", f"{row['question']} {row['options']}")
    return [f"image_{number}" for number in dict.fromkeys(named)] or ["image_1"]


def _cell(table: Any, index: int, column: str) -> ImageSource:
    def read() -> bytes:
        value = table[index][column]
        value = value[0] if isinstance(value, list) else value
        if not value or not (value["bytes"] or value["path"]):
            raise UserError(f"row {index + 1} has no image in the column {column!r}")
        return value["bytes"] or Path(value["path"]).read_bytes()

    return read


@dataclass(frozen=True)
class _Base64:
    """An image written as text."""

    text: str

    def __call__(self) -> bytes:
        try:
            return base64.b64decode(self.text)
        except ValueError as error:
            raise UserError(f"an image is not written as base64: {self.text[:20]!r}…") from error


def _holds_images(kind: Any) -> bool:
    import datasets

    inner = getattr(kind, "feature", kind)
    return isinstance(inner, datasets.Image)


def _load(name: str, config: str | None, split: str) -> Any:
    import datasets

    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(name, config, split=split)
    except Exception as error:  # datasets, huggingface_hub and the network each have their own
        raise UserError(
            f"the data set {name} ({config or 'default'}, {split}) cannot be had from the hub "
            f"({_one_line(error)}); check the name and the network, or download it elsewhere and "
            "give its folder with --data"
        ) from error


def _one_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _absent(value: Any) -> bool:
    """MMBench writes what is not there as nothing, "nan" or NaN."""
    return value in (None, "", "nan") or (isinstance(value, float) and math.isnan(value))


def _list(value: Any, where: str) -> list[Any]:
    """A list, or the Python list in a text, as MMMU's options are."""
    if isinstance(value, list):
        return value
    try:
        found = ast.literal_eval(str(value))
    except (ValueError, SyntaxError) as error:
        raise UserError(f"{where} has {str(value)[:60]!r} where MMMU has a list") from error
    return list(found)
