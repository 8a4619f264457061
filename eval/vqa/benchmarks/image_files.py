"""Finds the images that a benchmark's file names."""

import os
from collections import defaultdict
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from eval.measures.file_names import one_form, sorted_files
from eval.vqa.benchmarks.question_set import QuestionSet
from runtime.errors import UserError

ENDINGS = ("", ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")


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
