"""A folder of images, each captioned by the text file of the same name.

    cats/one.jpg    cats/one.txt    one caption a line; blank lines don't count
    cats/two.png                    no text file: an image without a caption

A record's id is the image's path below the folder, such as `cats/one.jpg`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from data_pipelines.images import MAX_FILE_SIZE
from data_pipelines.records import Record, Reject
from semhitok.errors import UserError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
"""File names taken for images, in any case; what a file is gets decided by its content."""

MAX_CAPTION_FILE_SIZE = 1024 * 1024
"""Largest text file, in bytes."""


def list_images(root: Path) -> list[Path]:
    """List the images below a folder, in the order of their ids.

    Folders behind symbolic links are not entered, so there are no cycles.

    Raises:
        UserError: if the folder is missing or holds no image.
    """
    if not root.is_dir():
        raise UserError(f"there is no folder {root}")
    paths = [
        Path(folder, name)
        for folder, _, names in os.walk(root)
        for name in names
        if Path(name).suffix.lower() in SUFFIXES
    ]
    if not paths:
        raise UserError(f"the folder {root} holds no image ({', '.join(sorted(SUFFIXES))})")
    return sorted(paths, key=lambda path: _record_id(root, path))


def read_records(root: Path) -> Iterator[Record | Reject]:
    """Yield the images below a folder with their captions, in the order of their ids.

    Symbolic links to files inside the folder are followed; links out of it are rejected, so that
    a downloaded folder cannot pull private files into a data set.

    Raises:
        UserError: if the folder is missing or holds no image.
    """
    for path in list_images(root):
        record_id = _record_id(root, path)
        try:
            image = _read_inside(root, path, MAX_FILE_SIZE)
            captions = _captions(root, path.with_suffix(".txt"))
        except ValueError as error:
            yield Reject(record_id, str(error))
        except OSError as error:
            yield Reject(record_id, f"cannot be read ({error.strerror})")
        else:
            yield Record(record_id, image, captions, [])


def _record_id(root: Path, path: Path) -> str:
    """Return the path below the root, with bytes that are no UTF-8 written as escapes."""
    return path.relative_to(root).as_posix().encode("utf-8", "backslashreplace").decode("utf-8")


def _captions(root: Path, path: Path) -> list[str]:
    """Read the captions of a text file that may not exist."""
    if not path.exists() and not path.is_symlink():
        return []
    data = _read_inside(root, path, MAX_CAPTION_FILE_SIZE)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"the caption file is not UTF-8 (byte {error.start})") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _read_inside(root: Path, path: Path, max_file_size: int) -> bytes:
    """Read a file that really lies below the root and is not too large.

    Raises:
        ValueError: in one clause, if it is neither.
    """
    # realpath, unlike Path.resolve, does not raise on links that run in a circle.
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
        raise ValueError(f"{path.name} is a symbolic link that leads out of the folder")
    if not path.is_file():
        raise ValueError(f"{path.name} is not a regular file")
    file_size = path.stat().st_size
    if file_size > max_file_size:
        raise ValueError(f"{path.name} has {file_size:,} bytes; the limit is {max_file_size:,}")
    return path.read_bytes()
