"""A benchmark's rows, with the columns of its usual copy on the hub, as questions.

Published files that are laid out otherwise are brought into this form by their readers.
"""

import ast
import math
from collections.abc import Callable, Mapping
from typing import Any

from eval.vqa.benchmarks.question_set import answer_texts, lettered, require_fields
from eval.vqa.scorers.task import BenchmarkQuestion
from runtime.errors import UserError

Row = Mapping[str, Any]
VIDEOS = "questions about videos"


def _vqav2(row: Row, where: str) -> BenchmarkQuestion:
    entries = row["answers"]
    if isinstance(entries, dict):  # older `datasets` turn a list of structs round
        entries = [{"answer": answer} for answer in entries["answer"]]
    if isinstance(entries, list):
        entries = [entry.get("answer") if isinstance(entry, dict) else None for entry in entries]
    types = (str(row.get("answer_type") or ""), str(row.get("question_type") or ""))
    return BenchmarkQuestion(
        str(row["question_id"]),
        row["question"],
        answer_texts(entries, where),
        ", ".join(filter(None, types)),
        image_id=str(row.get("image_id", "")),
    )


def _textvqa(row: Row, where: str) -> BenchmarkQuestion:
    answers, image = answer_texts(row["answers"], where), str(row.get("image_id", ""))
    return BenchmarkQuestion(str(row["question_id"]), row["question"], answers, image_id=image)


def _gqa(row: Row, where: str) -> BenchmarkQuestion:
    answer = row["answer"]
    return BenchmarkQuestion(
        str(row["id"]),
        row["question"],
        () if answer is None else answer_texts([answer], where),
        str((row.get("types") or {}).get("structural", "")),
        image_id=str(row["imageId"]),
    )


def _pope(row: Row, where: str) -> BenchmarkQuestion:
    """POPE's ids start at 1 in each of its splits, so the split goes first."""
    split, key = str(row.get("category") or ""), str(row["question_id"])
    return BenchmarkQuestion(
        f"{split}-{key}" if split else key,
        row["question"],
        (str(row["answer"]).strip().lower(),),
        split,
        image_id=str(row.get("image_source") or ""),
    )


def _mme(row: Row, where: str) -> BenchmarkQuestion:
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
    if row.get("data_type", "image") != "image":
        return VIDEOS
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


def _mmbench(row: Row, where: str) -> BenchmarkQuestion:
    index = int(row["index"])
    hint = "" if _is_absent(row.get("hint")) else f"{row['hint']}\n"
    options = [None if _is_absent(row.get(x)) else str(row[x]) for x in "ABCDE"]
    return BenchmarkQuestion(
        str(index),
        f"{hint}{row['question']}",
        (str(row["answer"]).strip(),),
        str(row.get("category") or ""),
        group=str(index % 10**6),  # rotations of the options are 10⁶ apart
        options=lettered(options, where),
        image_id=str(index % 10**6),
    )


def _mmmu(row: Row, where: str) -> BenchmarkQuestion:
    is_choice = row["question_type"] == "multiple-choice"
    answer, key = row["answer"], str(row["id"])
    answers = _list(answer, where) if str(answer).startswith("[") else [answer]
    return BenchmarkQuestion(
        key,
        row["question"],
        tuple(map(str, answers)),
        key.split("_", 1)[1].rsplit("_", 1)[0] if key.count("_") > 1 else "",
        options=tuple(map(str, _list(row["options"], where))) if is_choice else (),
        image_id=key,
    )


FROM_ROW: dict[str, tuple[tuple[str, ...], Callable[[Row, str], BenchmarkQuestion | str]]] = {
    "vqav2": (("question_id", "question", "answers"), _vqav2),
    "textvqa": (("question_id", "question", "answers"), _textvqa),
    "gqa": (("id", "imageId", "question", "answer"), _gqa),
    "pope": (("question_id", "question", "answer"), _pope),
    "mme": (("question_id", "question", "answer", "category"), _mme),
    "seedbench": (("question_id", "question", "answer"), _seedbench),
    "mmbench": (("index", "question", "A", "B", "answer"), _mmbench),
    "mmmu": (("id", "question", "options", "answer", "question_type"), _mmmu),
}
"""Task → the columns that a row must have, and what makes a question of it, or says why it is left
out; the second argument names the row in errors."""


def read_row(task: str, row: Row, where: str) -> BenchmarkQuestion | str:
    """The question of a row of a task, or the reason why the row is left out.

    Raises:
        UserError: naming the row, if it lacks a column or a value is not as published.
    """
    columns, read = FROM_ROW[task]
    require_fields(row, columns, where)
    return read(row, where)


def _is_absent(value: Any) -> bool:
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
