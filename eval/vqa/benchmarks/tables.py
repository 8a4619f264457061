"""Benchmarks as tables: the copies on the hub, and downloaded parquet files.

The columns are those of the copies by lmms-lab, which most of the field evaluates on; see
`eval.vqa.benchmarks.rows`.
"""

import glob
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets

from eval.measures.file_names import sorted_files
from eval.vqa.benchmarks.question_set import QuestionSet
from eval.vqa.benchmarks.rows import FROM_ROW, Row, read_row
from eval.vqa.scorers.task import ImageSource
from runtime.errors import UserError, says


@dataclass(frozen=True)
class HubCopy:
    """Where a benchmark lies on the hub: the data set, the split that papers report, and the
    configurations of its questions and, where they are apart, of its images."""

    name: str
    split: str
    config: str | None = None
    images: str | None = None


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
    """A benchmark, one of `HUB_COPIES`, from the hub or from its cache on this machine.

    Another data set with the same columns, or another split, may be named.

    Raises:
        UserError: if it cannot be loaded, or has other columns.
    """
    copy = HUB_COPIES[task]
    name, split = name or copy.name, split or copy.split
    table = _load(name, copy.config, split)
    found = read_table(task, table, f"{name} ({split})")
    if copy.images and "image" not in table.column_names:
        pictures = _load(name, copy.images, split)
        position = {str(key): index for index, key in enumerate(pictures["id"])}
        missing = [q.image_id for q in found.questions if q.image_id not in position]
        if missing:
            raise UserError(f"{found.source} lacks {len(missing):,} images, such as {missing[0]!r}")
        questions = [
            replace(q, images=(_cell(pictures, position[q.image_id], "image"),))
            for q in found.questions
        ]
        found = replace(found, questions=questions)
    return found


def read_parquet(task: str, path: Path) -> QuestionSet:
    """A benchmark from parquet files with the columns of its copy on the hub."""
    files = [path] if path.is_file() else sorted_files(path.rglob("*.parquet"))
    datasets.disable_progress_bars()
    try:
        # Escaped, since `datasets` takes names for patterns: of "a[1]" it would look for "a1".
        table = datasets.Dataset.from_parquet([glob.escape(str(file)) for file in files])
    except Exception as error:  # pyarrow and datasets have no common one
        raise UserError(f"{path} cannot be read as parquet ({says(error)})") from error
    return read_table(task, table, str(path))


def read_table(task: str, table: Any, source: str) -> QuestionSet:
    """Questions from a `datasets.Dataset`; its images are decoded when they are needed.

    Raises:
        UserError: naming the first row that lacks a column.
    """
    if task not in FROM_ROW:
        raise UserError(f"{source}: no table is known for {task}; give its published file")
    raw = datasets.Image(decode=False)
    pictures = []
    for name, kind in table.features.items():
        inner = getattr(kind, "feature", kind)  # of a list of images
        if "image" in name and isinstance(inner, datasets.Image):
            pictures.append(name)
            table = table.cast_column(name, raw if inner is kind else datasets.List(raw))
    texts = table.remove_columns(pictures)
    questions, left_out = [], Counter[str]()
    for index, row in enumerate(texts):
        read = read_row(task, row, f"row {index + 1} of {source}")
        if isinstance(read, str):
            left_out[read] += 1
            continue
        wanted = [n for n in _image_columns(task, row) if n in pictures]
        cells = tuple(_cell(table, index, name) for name in wanted)
        questions.append(replace(read, images=cells, image_id=read.image_id or f"row {index}"))
    return QuestionSet(source, questions, dict(left_out))


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


def _load(name: str, config: str | None, split: str) -> Any:
    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(name, config, split=split)
    except Exception as error:  # datasets, huggingface_hub and the network each have their own
        raise UserError(
            f"the data set {name} ({config or 'default'}, {split}) cannot be loaded from the hub "
            f"({says(error)}); check the name and the network, or download it elsewhere and "
            "give its folder with --data"
        ) from error
