"""Finds out what `--task` and `--data` name, and reads it, with the images that it names."""

import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from data_pipelines.loading.dataset import PreparedDataset
from data_pipelines.manifest import MANIFEST_NAME
from eval.measures.file_names import one_form, sorted_files
from eval.vqa.benchmarks.own_lines import read_own_lines
from eval.vqa.benchmarks.published import TASKS_WITH_FILES, read_published
from eval.vqa.benchmarks.question_set import QuestionSet, check_questions
from eval.vqa.benchmarks.tables import HUB_COPIES, read_hub, read_parquet
from eval.vqa.scorers.easy_vqa import question_type
from eval.vqa.scorers.task import BenchmarkQuestion, Task
from runtime.errors import UserError, says
from runtime.json_lines import json_values

ENDINGS = ("", ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")


def open_benchmark(
    task: Task,
    data: str | None,
    images: Path | None = None,
    split: str | None = None,
    needs_images: bool = True,
) -> QuestionSet:
    """Read and check the questions of a task.

    Args:
        task: whose rule they are for.
        data: a prepared folder, the benchmark's published file or folder, parquet files, JSONL with
            one's own fields, or the name of a data set on the hub; None for the hub's usual copy.
        images: folder of the images that a file names; by default the file's own.
        split: of a data set on the hub.
        needs_images: whether missing images are an error; not where predictions are there already.

    Raises:
        UserError: if there is no such data, it is not as it should be, or the rule does not fit it.
    """
    path = None if data is None else Path(data).expanduser()
    if path is not None and os.path.exists(path):  # which also takes names that are too long
        with _laid_out(task, data):
            found = _read_path(task, path)
        if needs_images and not all(q.images for q in found.questions):
            root = images or (path if path.is_dir() else path.parent)
            found = attach_images(found, root)
    elif data is not None and (data.count("/") != 1 or data.startswith((".", "~", "/"))):
        what = "folder" if task.name == "easy-vqa" else "file or folder"
        raise UserError(f"no such {what}: {data}")
    elif task.name not in HUB_COPIES:
        raise UserError(f"the task {task.name} needs --data")
    else:
        with _laid_out(task, data or HUB_COPIES[task.name].name):
            found = read_hub(task.name, data, split)
    check_questions(task, found)
    return found


@contextmanager
def _laid_out(task: Task, data: str | None) -> Iterator[None]:
    """Tell in one sentence of a field that is not as in the benchmark's own files."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{data} is not laid out as the file of {task.name} that its authors publish "
            f"({says(error)}); give that one"
        ) from error


def _read_path(task: Task, path: Path) -> QuestionSet:
    if path.is_file() and task.name == "easy-vqa" and path.suffix != ".jsonl":
        raise UserError(
            f"{path} is a file; name a folder that `semhitok prepare` wrote, or a --task"
        )
    if (path / MANIFEST_NAME).is_file() or (path.is_dir() and task.name == "easy-vqa"):
        return read_prepared(path)
    if path.suffix == ".parquet" or (path.is_dir() and any(path.rglob("*.parquet"))):
        return read_parquet(task.name, path)
    if path.suffix == ".jsonl" and not _is_published_pope(task, path):
        return read_own_lines(path)
    if task.name not in TASKS_WITH_FILES or (task.name == "mmbench" and path.suffix != ".tsv"):
        raise UserError(
            f"{path} is not a file that {task.name} is read from; give a prepared folder, JSONL "
            "with image, question and answers, or parquet files"
        )
    return read_published(task.name, path)


def _is_published_pope(task: Task, path: Path) -> bool:
    """POPE's own lines have `text` and `label`, and some copies end in .jsonl."""
    if task.name != "pope":
        return False
    _, first = next(json_values(path), (0, None))
    return isinstance(first, dict) and "label" in first


def read_prepared(path: Path) -> QuestionSet:
    """All questions of a prepared data set; the category is the form and topic of easy-VQA.

    Raises:
        UserError: if the folder holds no prepared data.
    """
    data = PreparedDataset(path, images_only=True)
    questions = [
        BenchmarkQuestion(
            question_id=q.question_id,
            question=q.question,
            answers=tuple(q.answers),
            category=question_type(q.question, q.answers) if q.answers else "",
            image_id=record.record_id,
            images=(partial(_image, data, index),),
        )
        for index, record in enumerate(data.texts())
        for q in record.questions
    ]
    return QuestionSet(str(path), questions, data_fingerprint=data.fingerprint)


def _image(data: Any, index: int) -> bytes:
    image: bytes = data[index].image
    return image


class ImageFolder:
    """Images below a folder, by relative path or by name alone, with or without the ending.

    All folders in it are searched, but only once a name is not found as a path.
    """

    def __init__(self, root: Path):
        self.root = root

    def find(self, name: str) -> Path | None:
        """The file of a name; None if there is none, or several by that name."""
        folder, _, file = name.rpartition("/")
        # MME's categories have their images in a folder of that name, or beside the questions.
        for parent in (self.root / folder, self.root / folder / "images"):
            for ending in ENDINGS:
                if (path := parent / f"{file}{ending}").is_file():
                    return path
        for ending in ENDINGS:
            if found := self._by_name.get(one_form(f"{name}{ending}")):
                return found[0] if len(found) == 1 else None
        return None

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        """Files by name and by path below the root, in one Unicode form."""
        paths: dict[str, list[Path]] = defaultdict(list)
        for folder, _, files in os.walk(self.root):
            for path in sorted_files(Path(folder, file) for file in files):
                for name in {path.name, path.relative_to(self.root).as_posix()}:
                    paths[one_form(name)].append(path)
        return paths


def attach_images(found: QuestionSet, root: Path) -> QuestionSet:
    """Give every question the image file of its `image_id` below a folder.

    Raises:
        UserError: if any is missing, with the number and the first name.
    """
    folder = ImageFolder(root)
    paths = {name: folder.find(name) for name in dict.fromkeys(q.image_id for q in found.questions)}
    if missing := [name for name, path in paths.items() if path is None]:
        raise UserError(
            f"{len(missing):,} of {len(paths):,} images that {found.source} names are not in "
            f"{root}, such as {missing[0]!r}; give --images the folder that holds them"
        )
    files = ((q, paths[q.image_id]) for q in found.questions)
    return replace(found, questions=[replace(q, images=(path,)) for q, path in files if path])
