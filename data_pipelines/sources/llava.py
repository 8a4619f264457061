"""Conversations as LLaVA publishes them: one JSON list, or one object a line, and a folder.

    {"id": "33471", "image": "coco/train2017/000000033471.jpg", "conversations": [
        {"from": "human", "value": "<image>\\nWhat colour is the bus?"},
        {"from": "gpt", "value": "It is white and red."}]}

Entries about one image become one record, whose id is the image's name. An entry without an image
is a record of text; one whose `image` (or `images`) is a list is a record of the conversation, that
names a record of each image.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_pipelines.images import MAX_FILE_SIZE
from data_pipelines.records import Record, Reject
from data_pipelines.safe_files import line_offsets, parse_line, read_line, read_named
from data_pipelines.sources.columns import conversation_of
from data_pipelines.sources.rows import Rows, guarded
from runtime.errors import UserError
from runtime.files import read_json


def read_llava(path: Path, images: Path) -> Rows:
    """The records of a file, in the order in which their images are first named.

    Args:
        path: `.json` with a list, or `.jsonl`.
        images: the folder that the names are relative to.

    Raises:
        UserError: if the file cannot be read as a whole, or holds no entry.
    """
    entries = _Lines(path) if path.suffix.lower() == ".jsonl" else read_json(path)
    if not isinstance(entries, (list, _Lines)) or not len(entries):
        raise UserError(f"{path} holds no list of conversations")
    groups: dict[str, list[int]] = {}  # image name, or a name of our own -> its entries
    for number, entry in enumerate(entries):
        named = _image_names(entry)
        if len(named) == 1:
            groups.setdefault(named[0], []).append(number)
            continue
        groups[f"{path.stem}-{number:07d}"] = [number]
        for name in named:
            groups.setdefault(name, [])
    names = list(groups)

    def read(index: int) -> Record | Reject:
        name = names[index]
        return guarded(name, index, lambda: _record(name, [entries[i] for i in groups[name]]))

    def _record(name: str, found: list[Any]) -> Record | Reject:
        if found and isinstance(found[0], Reject):
            return found[0]
        if not all(isinstance(entry, dict) for entry in found):
            return Reject(name, "its entry is no JSON object")
        own = not found or len(_image_names(found[0])) == 1
        try:
            image = read_named(images, name, MAX_FILE_SIZE) if own else None
            spoken = [
                conversation_of(
                    entry.get("conversations"), own, None if own else _image_names(entry)
                )
                for entry in found
            ]
        except ValueError as error:
            return Reject(name, str(error))
        return Record(name, image, conversations=spoken)

    return Rows(len(names), read)


def _image_names(entry: Any) -> list[str]:
    """What an entry calls its images; what is no name is left for the reading to refuse."""
    if not isinstance(entry, dict):
        return []
    named = entry.get("image", entry.get("images"))
    if named is None:
        return []
    values = named if isinstance(named, list) else [named]
    return [value if isinstance(value, str) else json.dumps(value) for value in values]


class _Lines:
    """The entries of a JSONL file, each parsed when it is asked for: there may be very many."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offsets = line_offsets(path)

    def __len__(self) -> int:
        return len(self.offsets)

    def __iter__(self) -> Iterator[Any]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, index: int) -> Any:
        number, start, length = self.offsets[index].tolist()
        try:
            return parse_line(read_line(self.path, start, length))
        except ValueError as error:
            return Reject(f"{self.path.name}:{number}", str(error))
