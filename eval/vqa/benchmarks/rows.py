"""A benchmark's rows, with the columns of its usual copy on the hub, as questions.

| task | columns |
|---|---|
| vqav2 | question_id, question, answers [{answer}], answer_type, question_type, image_id |
| textvqa | question_id, question, answers [text], image_id |
| gqa | id, imageId, question, answer, types {structural} |
| pope | question_id, question, answer, category, image_source |
| mme | question_id (of the image), question, answer, category |
| seedbench | question_id, question, choice_a ... choice_d, answer, data_type, data_id |
| mmbench | index, question, hint, A ... E, answer, category |
| mmmu | id, question, options, answer, question_type |

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
    require_fields(row, ("question_id", "question", "answers"), where)
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
    require_fields(row, ("question_id", "question", "answers"), where)
    answers, image = answer_texts(row["answers"], where), str(row.get("image_id", ""))
    return BenchmarkQuestion(str(row["question_id"]), row["question"], answers, image_id=image)


def _gqa(row: Row, where: str) -> BenchmarkQuestion:
    require_fields(row, ("id", "imageId", "question", "answer"), where)
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
    require_fields(row, ("question_id", "question", "answer"), where)
    split, key = str(row.get("category") or ""), str(row["question_id"])
    return BenchmarkQuestion(
        f"{split}-{key}" if split else key,
        row["question"],
        (str(row["answer"]).strip().lower(),),
        split,
        image_id=str(row.get("image_source") or ""),
    )


def _mme(row: Row, where: str) -> BenchmarkQuestion:
    require_fields(row, ("question_id", "question", "answer", "category"), where)
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
    require_fields(row, ("question_id", "question", "answer"), where)
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
    require_fields(row, ("index", "question", "A", "B", "answer"), where)
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
    require_fields(row, ("id", "question", "options", "answer", "question_type"), where)
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


FROM_ROW: dict[str, Callable[[Row, str], BenchmarkQuestion | str]] = {
    "vqav2": _vqav2,
    "textvqa": _textvqa,
    "gqa": _gqa,
    "pope": _pope,
    "mme": _mme,
    "seedbench": _seedbench,
    "mmbench": _mmbench,
    "mmmu": _mmmu,
}
"""Task → what makes a question of a row, or the reason why the row is left out; the second argument
names the row in errors."""


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
