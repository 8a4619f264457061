"""Conversations as LLaVA publishes them: one JSON list, or one object a line, and a folder.

    {"id": "33471", "image": "coco/train2017/000000033471.jpg", "conversations": [
        {"from": "human", "value": "<image>\\nWhat colour is the bus?"},
        {"from": "gpt", "value": "It is white and red."}]}

Entries about one image become one record, whose id is the image's name. An entry without an image
(none, null, "" or []) is a record of text; one whose `image` (or `images`) is a list is a record of
the conversation, that names a record of each image. Both have the entry's own id, if it is the only
one of that id.
"""

import json
import unicodedata
from pathlib import Path, PurePosixPath
from typing import Any

from data_pipelines.records import Conversation, Record, Reject
from data_pipelines.safe_files import JsonLines, read_named
from data_pipelines.sources.columns import (
    conversation_of,
    first_key,
    is_empty,
    unread_keys,
    unread_of_turns,
    usable_id,
)
from data_pipelines.sources.rows import Found, Rows, attempt, guarded
from runtime.errors import UserError
from runtime.files import read_json, unique_keys


def read_llava(path: Path, images: Path) -> Rows:
    """The records of a `.json` list or a `.jsonl`, in the order in which images are first named."""
    entries = JsonLines(path) if path.suffix.lower() == ".jsonl" else read_json(path, unique_keys)
    if not isinstance(entries, (list, JsonLines)) or not len(entries):
        raise UserError(f"{path} holds no list of conversations")
    own_ids: list[str] = []
    named: list[list[str]] = []
    for number, entry in enumerate(entries):
        own_ids.append(_own_id(entry, f"{path.stem}-{number:07d}"))
        named.append(attempt([], path.stem, _image_names, entry) or [])
    taken = {name for names in named for name in names}
    groups: dict[str, list[int]] = {}  # record id -> its entries
    for number, names in enumerate(named):
        record_id = names[0] if len(names) == 1 else own_ids[number]
        if len(names) != 1 and (record_id in taken or record_id in groups):
            record_id = f"{record_id}-{number:07d}"
        groups.setdefault(record_id, []).append(number)
        for name in names:
            groups.setdefault(name, [])
    record_ids = list(groups)

    def read(index: int) -> Found:
        record_id = record_ids[index]
        numbers = groups[record_id]
        own = record_id in taken
        rejects: list[Reject] = []
        image = None
        if own:
            image = attempt(rejects, record_id, read_named, images, record_id)
        if rejects:  # of the image, and so of each entry about it
            reason = rejects[0].reason
            return Found(None, [Reject(own_ids[n], reason) for n in numbers] or rejects)
        good, unread = [], []  # type: list[Conversation], list[str]
        for number in numbers:
            entry, shown = entries[number], [] if own else named[number]
            own_name, own_id = record_id if own else None, own_ids[number]
            spoken = attempt(rejects, own_id, _conversation, entry, own, own_name, shown, own_id)
            good += [] if spoken is None else [spoken]
            unread += dict.fromkeys(_unread(entry))
        record = Record(record_id, image, conversations=good) if own or good else None
        return Found(record, rejects, tuple(unread))

    return Rows(len(record_ids), lambda index: guarded(record_ids[index], read, index))


def _conversation(
    entry: Any, has_image: bool, own_name: str | None, images: list[str], own_id: str
) -> Conversation:
    if isinstance(entry, Reject):
        raise ValueError(entry.reason)
    if not isinstance(entry, dict):
        raise ValueError("its entry is no JSON object")
    _image_names(entry)  # which says what is wrong with them
    return conversation_of(_turns(entry), has_image, own_name, images, own_id)


def _turns(entry: dict[str, Any]) -> Any:
    return entry.get(first_key(entry, "conversations", "messages"))


def _unread(entry: Any) -> list[str]:
    """What an entry holds beside its conversation and its images."""
    if not isinstance(entry, dict):
        return []
    known = ["image", "images", first_key(entry, "conversations", "messages")]
    known += ["id"] if usable_id(entry.get("id"), "") else []
    return [*unread_keys(entry, known), *unread_of_turns(_turns(entry))]


def _own_id(entry: Any, default: str) -> str:
    if isinstance(entry, Reject):
        return entry.record_id
    return usable_id(entry.get("id") if isinstance(entry, dict) else None, default)


def _image_names(entry: Any) -> list[str]:
    """What an entry calls its images, those under both keys once.

    What is no name is left for the reading to refuse; a `ValueError` where only some have one.
    """
    names: list[str] = []
    for key in ("image", "images"):
        named = entry.get(key) if isinstance(entry, dict) else None
        values = named if isinstance(named, list) else [named]
        if is_empty(named) or all(map(is_empty, values)):
            continue
        if any(map(is_empty, values)):
            raise ValueError(f"one of its {len(values)} images has no name")
        found = [value if isinstance(value, str) else json.dumps(value) for value in values]
        found = [unicodedata.normalize("NFC", PurePosixPath(name).as_posix()) for name in found]
        names += [name for name in found if not (key == "images" and name in names)]
    return names
