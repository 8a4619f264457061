"""Rows of somebody's table as records: which column is what, and what a cell may hold.

    image          bytes, a {bytes, path} struct as Hugging Face writes it, or a file's name below
                   the folder of images
    caption        a text, or a list of texts
    question       a text, with `answer` a text or one text an annotator
    conversations  a list of turns, {"from": "human", "value": ...} or {"role": "user",
                   "content": ...}
    text           plain text without an image; a caption where there is one
    id             unique; else the file's name and the row's number

A key that is not given takes a column of a usual name (see `USUAL`), if there is one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_pipelines.images import MAX_FILE_SIZE
from data_pipelines.records import IMAGE_MARK, Conversation, Message, Question, Record
from data_pipelines.safe_files import read_named
from data_pipelines.sources.spec import USUAL
from runtime.errors import UserError

SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
"""Names of the roles in the wild, and ours."""


def choose_columns(given: dict[str, str], columns: list[str], name: str) -> dict[str, str]:
    """Settle which column each key reads.

    Args:
        given: key -> column, as the user wrote it.
        columns: those there are.
        name: of the source, for errors.

    Returns:
        Key -> column, for the keys that have one.

    Raises:
        UserError: if a column does not exist, or none is of use.
    """
    there = ", ".join(columns) or "none"
    for key, column in given.items():
        if column not in columns:
            raise UserError(f"{name} has no column {column!r} for {key}; its columns are: {there}")
    chosen = dict(given)
    for key, usual in USUAL.items():
        found = [column for column in usual if column in columns and column not in given.values()]
        if key not in chosen and found:
            chosen[key] = found[0]
    if "image" in chosen and "text" in chosen and "caption" not in chosen:
        chosen["caption"] = chosen.pop("text")  # as most captioned sets on the hub name it
    if not {"image", "text", "conversations"} & chosen.keys():
        raise UserError(
            f"{name} has no column of images, texts or conversations that is known by its name; "
            f"say which it is, such as image=COLUMN; its columns are: {there}"
        )
    if "question" in chosen and "answer" not in chosen:
        del chosen["question"]
    return chosen


def record_of_row(
    row: dict[str, Any], columns: dict[str, str], default_id: str, images: Path | None
) -> Record:
    """Turn one row into a record.

    Args:
        row: column -> value.
        columns: from `choose_columns`.
        default_id: where no column tells the id.
        images: the folder below which file names are looked for.

    Raises:
        ValueError: in one clause, if a cell holds what it must not.
    """
    cells = {key: row.get(column) for key, column in columns.items()}
    record_id = default_id if cells.get("id") is None else id_of(cells["id"])
    asked = cells.get("question")
    questions = []
    if asked is not None:
        question_id = cells.get("question_id")
        question_id = f"{record_id}-0" if question_id is None else id_of(question_id)
        answers = texts_of(cells.get("answer"), "answer")
        questions = [Question(text_of(asked, "question"), answers, question_id)]
    image = None if cells.get("image") is None else image_of(cells["image"], images)
    turns = cells.get("conversations")
    text = cells.get("text")
    return Record(
        record_id=record_id,
        image=image,
        captions=texts_of(cells.get("caption"), "caption"),
        questions=questions,
        conversations=[] if turns is None else [conversation_of(turns, image is not None)],
        text=None if text is None else text_of(text, "text"),
    )


def image_of(value: Any, images: Path | None) -> bytes:
    """The encoded file in a cell."""
    if isinstance(value, dict):
        found = value.get("bytes")
        value = found if found is not None else value.get("path")
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if not isinstance(value, str):
        raise ValueError(f"its image is neither bytes nor a file's name ({type(value).__name__})")
    if images is None:
        raise ValueError("its image is a file's name; say below which folder, with images=DIR")
    return read_named(images, value, MAX_FILE_SIZE)


def conversation_of(turns: Any, has_image: bool, images: list[str] | None = None) -> Conversation:
    """Turns as they are written in the wild; an image without a mark is shown at the beginning."""
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise ValueError("its conversation is no list of turns")
    messages = []
    for turn in turns:
        speaker = turn.get("from", turn.get("role"))
        if not isinstance(speaker, str) or speaker not in SPEAKERS:
            raise ValueError(f"a turn is by {speaker!r}; known are {', '.join(SPEAKERS)}")
        content = text_of(turn.get("value", turn.get("content")), "message")
        messages.append(Message(SPEAKERS[speaker], content))
    marked = any(IMAGE_MARK in message.content for message in messages)
    if has_image and not images and not marked:
        first = next((i for i, m in enumerate(messages) if m.role == "user"), None)
        if first is not None:
            shown = f"{IMAGE_MARK}\n{messages[first].content}"
            messages[first] = Message("user", shown)
    return Conversation(messages, images or [])


def id_of(value: Any) -> str:
    """An id, which may be a number."""
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"its id is neither text nor number ({type(value).__name__})")


def texts_of(value: Any, kind: str) -> list[str]:
    """A text or a list of them, without the missing ones."""
    if value is None:
        return []
    values = value if isinstance(value, list) else [value]
    return [text_of(each, kind) for each in values if each is not None]


def text_of(value: Any, kind: str) -> str:
    """A text, without the blanks around it.

    Bytes are read as UTF-8 and refused where they are not; numbers are written out.
    """
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"a {kind} is not UTF-8 (byte {error.start})") from None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise ValueError(f"a {kind} is not a text but {type(value).__name__}")
    return value.strip()
