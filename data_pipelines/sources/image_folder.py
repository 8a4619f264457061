"""A folder of images, captioned by text files of the same name or by tables.

    cats/one.jpg    cats/one.txt    one caption a line; blank lines don't count
    cats/two.png                    no text file: an image without a caption
    metadata.jsonl                  or metadata.csv, in any folder: `file_name`, from there, and
                                    `caption` (or `text`) a line, as `datasets` reads it; the text
                                    file of an image that it captions is not read

A record's id is the image's path below the folder, such as `cats/one.jpg`. What macOS leaves beside
files (`._one.jpg`, `__MACOSX/`) is passed over.
"""

import csv
import io
import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from data_pipelines.records import Record, Reject
from data_pipelines.safe_files import (
    MAX_LINE_SIZE,
    JsonLines,
    check_name,
    is_inside,
    note_unread,
    read_inside,
)
from data_pipelines.sources.columns import choose_columns, is_absent, refuse_doubles, texts_of
from data_pipelines.sources.rows import Found, Rows, attempt, guarded
from runtime.errors import UserError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"})
"""File names taken for images, in any case; what a file is gets decided by its content."""
TABLES = ("metadata.jsonl", "metadata.csv")
"""Tables of captions that are found by themselves."""
LEADS_OUT = "is a link that leads out of it: name the folder behind it as a source of its own"
"""What is wrong with a link to a folder."""
MAX_CAPTION_FILE_SIZE = 1024 * 1024
"""Largest text file, in bytes."""


def list_images(root: Path) -> list[Path]:
    """The images below a folder, at least one, in the order of their ids.

    Symbolic links are followed wherever they lead, to each folder once.
    """
    return _split(root, follow=True)[0]


def _split(root: Path, follow: bool) -> tuple[list[Path], list[Path], list[Path]]:
    """The images below a folder, its other files, and the links that `_list_files` returns."""
    files, links = _list_files(root, follow)
    images = [path for path in files if path.suffix.lower() in SUFFIXES]
    if not images:
        behind = f"; {links[0]} {LEADS_OUT}" if links else ""
        kinds = ", ".join(sorted(SUFFIXES))
        raise UserError(f"the folder {root} holds no image ({kinds}){behind}")
    return images, [path for path in files if path.suffix.lower() not in SUFFIXES], links


def read_folder(root: Path, captions: Path | None = None, columns: dict[str, str] = {}) -> Rows:  # noqa: B006  (only read)
    """The images below a folder with their captions, in the order of their ids.

    Symbolic links to files inside the folder are followed; links out of it, to files or folders,
    are rejected, so that a downloaded folder cannot pull private files into a data set. A line of a
    table that names no image of the folder becomes a reject.

    Args:
        root: the folder.
        captions: a JSONL or CSV file with paths from the folder; else `TABLES` are looked for.
        columns: which of its columns are `image` and `caption`.
    """
    paths, others, links = _split(root, follow=False)
    tables = [path for path in others if path.name in TABLES] if captions is None else [captions]
    if not tables and columns:
        said = ",".join(f"{key}={column}" for key, column in columns.items())
        raise UserError(
            f"{root} has no table of captions ({' or '.join(TABLES)}) in which {said} could say "
            "which column is what: name one with captions=FILE, or leave that away"
        )
    table = _CaptionTable()
    for path in tables:
        below = path.parent.relative_to(root).as_posix() if captions is None else "."
        table.read(path, columns, "" if below == "." else f"{below}/")
    ids = [_record_id(root, path) for path in paths]
    texts = defaultdict(list)  # an image's id without its ending -> its text files
    for path in others:
        if path.suffix.lower() == ".txt":
            texts[_stem(_record_id(root, path))].append(path)
    table.reject_others(ids)
    rejects = table.rejects
    for link in links:
        rejects.append(Reject(_record_id(root, link), f"{link.name} {LEADS_OUT}"))

    def read(index: int) -> Found:
        if index >= len(paths):
            return Found(None, [rejects[index - len(paths)]])
        record_id = ids[index]
        bad: list[Reject] = []
        image = attempt(bad, record_id, read_inside, root, paths[index])
        if image is None:
            return Found(None, bad)
        if record_id in table.captions:
            return Found(Record(record_id, image, table.captions[record_id]))
        captions: list[str] = []
        for path in texts[_stem(record_id)]:
            captions += attempt(bad, record_id, _captions, root, path, kind="captions") or []
        return Found(Record(record_id, image, captions), bad)

    read_texts = {_stem(record_id) for record_id in ids if record_id not in table.captions}
    unread = [path for stem, files in texts.items() if stem not in read_texts for path in files]
    known = set(map(os.path.realpath, tables))
    others = [path for path in others if path.suffix.lower() != ".txt"]
    unread += [path for path in others if os.path.realpath(path) not in known]
    names = [_record_id(root, path) for path in unread]
    return Rows(
        len(paths) + len(rejects),
        lambda index: guarded(ids[min(index, len(ids) - 1)], read, index),
        (*table.notes, *note_unread(root, names, "belong to no image and ")),
    )


def _list_files(root: Path, follow: bool) -> tuple[list[Path], list[Path]]:
    """All files below a folder but what macOS leaves, and the links to folders that lead out of it.

    Both are in the order of their ids. To `follow` the links is to list the files behind them too.
    A folder that several links lead to, or that was walked already, is listed once.
    """
    if not root.is_dir():
        raise UserError(f"there is no folder {root}")
    paths: list[Path] = []
    starts, outside = [root], []
    seen: set[str] = set()
    for start in starts:  # grows: links come after all that lies in the folder itself
        for folder, folders, names in os.walk(start, onerror=_refuse_unreadable):
            if (real := os.path.realpath(folder)) in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if name != "__MACOSX")
            links = [path for name in folders if os.path.islink(path := os.path.join(folder, name))]
            found = [Path(folder, name) for name in names]
            paths += [path for path in found if not path.name.startswith(("._", ".DS_Store"))]
            starts += map(Path, links if follow else ())
            outside += [] if follow else [Path(path) for path in links if not is_inside(root, path)]
    paths, outside = (sorted(a, key=lambda path: _record_id(root, path)) for a in (paths, outside))
    return paths, outside


def _refuse_unreadable(error: OSError) -> None:
    raise UserError(
        f"the folder {error.filename} cannot be read ({error.strerror}): make it readable, or take "
        "it out of the folder of images"
    )


def _record_id(root: Path, path: Path) -> str:
    """The path below the root, with bytes that are no UTF-8 written as escapes."""
    name = path.relative_to(root).as_posix().encode("utf-8", "backslashreplace").decode("utf-8")
    return unicodedata.normalize("NFC", name)


def _stem(record_id: str) -> str:
    return os.path.splitext(record_id)[0]


def _captions(root: Path, path: Path) -> list[str]:
    """The captions of a text file."""
    data = read_inside(root, path, MAX_CAPTION_FILE_SIZE)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"the caption file is not UTF-8 (byte {error.start})") from error
    return [line.strip() for line in text.split("\n") if line.strip()]


class _CaptionTable:
    """Captions out of tables, by the ids of their images."""

    def __init__(self) -> None:
        self.captions: dict[str, list[str]] = {}
        self.rejects: list[Reject] = []
        self.notes: list[str] = []
        self._lines: dict[str, list[str]] = {}  # image -> the lines that name it

    def read(self, path: Path, columns: dict[str, str], folder: str) -> None:
        """Add a JSONL or CSV file; its names lie in `folder`, which is "" or ends in "/"."""
        rows = list(_csv_rows(path) if path.suffix.lower() == ".csv" else JsonLines(path).named())
        known: dict[str, None] = {}  # a set that keeps the order
        for _, row in rows:
            known |= dict.fromkeys(row) if isinstance(row, dict) else {}
        chosen = choose_columns(columns, list(known), str(path))
        if "image" not in chosen or "caption" not in chosen:
            raise UserError(
                f"{path} needs a column `file_name` and one of captions, or image=COLUMN and "
                f"caption=COLUMN; its columns are: {', '.join(known)}"
            )
        left = [column for column in known if column not in (chosen["image"], chosen["caption"])]
        if left:
            self.notes.append(f"these columns of {path} were not read: {', '.join(left)}")
        for line, row in rows:
            attempt(self.rejects, line, self._add, line, row, chosen, folder)

    def _add(self, line: str, row: dict | Reject, chosen: dict[str, str], folder: str) -> None:
        if isinstance(row, Reject):
            raise ValueError(row.reason)
        value = row.get(chosen["image"])
        name = "" if is_absent(value) else str(value)
        check_name(name)
        record_id = unicodedata.normalize("NFC", folder + os.path.normpath(name))
        captions = texts_of(row.get(chosen["caption"]), "caption")
        self._lines.setdefault(record_id, []).append(line)
        self.captions.setdefault(record_id, []).extend(captions)

    def reject_others(self, ids: list[str]) -> None:
        """Reject what names no image of the folder."""
        for record_id in sorted(self.captions.keys() - set(ids)):
            del self.captions[record_id]
            lines = ", ".join(self._lines[record_id])
            reason = f"there is no such image in the folder ({lines})"
            self.rejects.append(Reject(record_id, reason))


def _csv_rows(path: Path) -> Iterator[tuple[str, dict | Reject]]:
    """Each line, with what to call it."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    csv.field_size_limit(MAX_LINE_SIZE)  # a longer text than csv's own limit is one reject
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        header = next(reader, [])
        refuse_doubles(header, str(path))
        for cells in filter(None, reader):
            name = f"{path.name}:{reader.line_num}"
            if len(cells) == len(header):
                yield name, dict(zip(header, cells, strict=True))
                continue
            more = "more" if len(cells) > len(header) else "fewer"
            reason = f"the line has {more} cells than the header; put texts with commas in quotes"
            yield name, Reject(name, reason)
    except csv.Error as error:
        raise UserError(f"{path} is not valid CSV ({error})") from error
