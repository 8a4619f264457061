"""Rows of somebody's table as records: which column is what, and what a cell may hold.

    image          bytes, a {bytes, path} struct as Hugging Face writes it, or a file's name below
                   the folder of images; or a list of one of them
    caption        a text, or a list of texts
    question       a text, with `answer` a text or one text an annotator
    questions      a list of {"question": ..., "answers": ...}, perhaps with "question_id"
    conversations  a list of turns, {"from": "human", "value": ...} or {"role": "user",
                   "content": ...}, whose content may be a list of {"type": "text", "text": ...}
                   and {"type": "image"}; or a list of such lists, or of {"messages": ...}
    text           plain text without an image; a caption where there is one
    id             unique; else the file's name and the row's number

A key that is not given takes a column of a usual name (see `USUAL`), if there is one.
"""

import math
import os
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from data_pipelines.records import IMAGE_MARK, Conversation, Message, Question, Record, Reject
from data_pipelines.safe_files import read_named
from data_pipelines.sources.rows import Found, attempt
from data_pipelines.sources.spec import USUAL
from runtime.errors import UserError

T = TypeVar("T")

SPEAKERS = {
    "system": "system",
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bing", "bard"), "assistant"),
}
"""Names of the roles in the wild, in any case, and ours."""
IMAGE_KEYS = ("image", "image_url", "url", "path")
"""Where a part of a message names its image, or holds it."""


def choose_columns(given: dict[str, str], columns: list[str], name: str) -> dict[str, str]:
    """Settle which of the columns of a source each key reads, and refuse what does not fit.

    `given` is key -> column, as the user wrote it; the result is the same of all keys that have
    one.
    """
    there = ", ".join(columns) or "none"
    refuse_doubles(columns, name)
    for key, column in given.items():
        if column not in columns:
            raise UserError(f"{name} has no column {column!r} for {key}; its columns are: {there}")
    chosen = usual_columns(given, columns)
    if not {"image", "text", "conversations"} & chosen.keys():
        raise UserError(
            f"{name} has no column of images, texts or conversations that is known by its name; "
            f"say which it is, such as image=COLUMN; its columns are: {there}"
        )
    return chosen


def refuse_doubles(columns: list[str], name: str) -> None:
    """Refuse a table with two columns of one name, of which one would be lost."""
    if twice := [column for column in columns if column and columns.count(column) > 1]:
        raise UserError(f"{name} has two columns {twice[0]!r}: rename one, or take it out")


def usual_columns(given: dict[str, str], columns: Iterable[str]) -> dict[str, str]:
    """The same without an error: of what is given, and of usual names, what there is."""
    left = [column for column in columns if column not in given.values()]
    chosen = {key: column for key, column in given.items() if column in columns}
    for key, usual in USUAL.items():
        found = [column for column in usual if column in left]
        if key not in given and found:
            chosen[key] = found[0]
    if "image" in chosen and "text" in chosen and "caption" not in chosen:
        chosen["caption"] = chosen.pop("text")  # as most captioned sets on the hub name it
    if not {"question", "answer"} <= chosen.keys():  # neither is of use alone
        for key in ("question", "answer", "question_id"):
            chosen.pop(key, None)
    return chosen


def record_of_row(
    row: dict[str, Any], columns: dict[str, str], default_id: str, images: Path | None
) -> Found:
    """Turn one row into a record; cells that hold what they must not are rejected by themselves.

    `columns` are those of `choose_columns`, `default_id` is for rows without one, and `images` is
    the folder below which file names are looked for.
    """
    cells = {key: row.get(column) for key, column in columns.items()}
    rejects: list[Reject] = []
    record_id = usable_id(cells.get("id"), default_id)
    image = attempt(rejects, record_id, image_of, cells.get("image"), images)
    if rejects:
        return Found(None, rejects)

    def read(kind: str, values: list[Any], read_one: Callable[..., T], *args: Any) -> list[T]:
        found = (
            attempt(rejects, record_id, read_one, value, *args, kind=f"{kind}-{number}")
            for number, value in enumerate(values, start=1)
            if not is_absent(value)
        )
        return [value for value in found if value is not None]

    asked = _listed(cells.get("questions"))
    unread = [name for name in row if name not in columns.values()]
    unread += [columns["id"]] if _is_no_id(cells.get("id")) else []
    unread += [name for question in asked for name in _unread_of_question(question)]
    answered = not all(map(is_empty, _listed(cells.get("answer"))))
    if answered or not is_absent(cells.get("question")):
        asked = [{key: cells.get(key) for key in ("question", "answer", "question_id")}, *asked]
    asked = [_with_id(question, f"{record_id}-{n}") for n, question in enumerate(asked)]
    spoken = _listed(cells.get("conversations"))
    if spoken and not all(map(_is_conversation, spoken)):
        spoken = [spoken]  # the turns of one
    unread += [name for turns in spoken for name in unread_of_turns(turns)]
    own_name = _name_of(cells.get("image"))
    texts = read("text", [cells.get("text")], text_of, "text")
    record = Record(
        record_id,
        image,
        read("caption", _listed(cells.get("caption")), text_of, "caption"),
        read("question", asked, _question_of),
        read("conversation", spoken, conversation_of, image is not None, own_name),
        texts[0] if texts else None,
    )
    return Found(record, rejects, tuple(dict.fromkeys(unread)))


def is_absent(value: Any) -> bool:
    """Whether a cell holds nothing: null, or NaN, which pandas writes for a gap."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def is_empty(value: Any) -> bool:
    """Whether nothing is lost with a value that is not read."""
    return is_absent(value) or (isinstance(value, (str, list, dict)) and not value)


def unread_keys(value: Any, known: Iterable[str], where: str = "") -> list[str]:
    """Keys of an object, as `where` says before them, that hold something and are not read."""
    found = value if isinstance(value, dict) else {}
    return [where + key for key in found if key not in known and not is_empty(found[key])]


def _unread_of_question(value: Any) -> list[str]:
    answers = first_key(value, "answers", "answer") if isinstance(value, dict) else ""
    known = [
        "question",
        answers,
        *(() if _is_no_id(_get(value, "question_id")) else ("question_id",)),
    ]
    return unread_keys(value, known, "questions.")


def unread_of_turns(turns: Any) -> list[str]:
    """What `conversation_of` does not read of its turns."""
    where = "conversations."
    unread = unread_keys(turns, ("images", "messages"), where)
    turns = turns.get("messages") if isinstance(turns, dict) else turns
    for turn in turns if isinstance(turns, list) else []:
        if not isinstance(turn, dict):
            continue
        content = first_key(turn, "value", "content")
        unread += unread_keys(turn, ("from", "role", content), where)
        for part in turn[content] if isinstance(turn.get(content), list) else []:
            is_text = isinstance(part, dict) and part.get("type") == "text"
            known = ("text",) if is_text else IMAGE_KEYS if _name_in(part) else ()
            unread += unread_keys(part, ("type", *known), where)
    return unread


def first_key(value: dict[str, Any], *keys: str) -> str:
    """Which of the keys of one meaning has a value; tables hold null at the others."""
    return next((key for key in keys if not is_absent(value.get(key))), keys[0])


def _listed(value: Any) -> list[Any]:
    """The values of a cell that may hold one or several."""
    if is_absent(value):
        return []
    return value if isinstance(value, list) else [value]


def _with_id(question: Any, default: str) -> dict[str, Any]:
    found = question if isinstance(question, dict) else {}
    return found | {"question_id": usable_id(found.get("question_id"), default)}


def _is_conversation(value: Any) -> bool:
    """Whether a value in a list is a whole conversation, and not a turn of one."""
    return isinstance(value, list) or (isinstance(value, dict) and "messages" in value)


def _name_of(image: Any) -> str | None:
    """What a cell calls its image, if anything."""
    if isinstance(image, list):
        image = image[0] if image else None
    name = image.get("path") if isinstance(image, dict) else image
    return id_of(name) if isinstance(name, str) and name else None


def image_of(value: Any, images: Path | None) -> bytes | None:
    """The encoded file in a cell; None where the cell names none."""
    if isinstance(value, list):
        if len(value) > 1:
            raise ValueError(
                f"it names {len(value)} images, where a row has one: give conversations about "
                "several as llava:FILE,images=DIR"
            )
        value = value[0] if value else None
    if isinstance(value, dict):
        found = value.get("bytes")
        value = found if found is not None else value.get("path")
    if is_absent(value) or value == "":
        return None
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if not isinstance(value, str):
        raise ValueError(f"its image is neither bytes nor a file's name ({type(value).__name__})")
    if images is None:
        raise ValueError("its image is a file's name; say below which folder, with images=DIR")
    return read_named(images, value)


def _question_of(value: dict[str, Any]) -> Question:
    """A question with its answers, of which there may be one."""
    if is_absent(value.get("question")) and "question" in value:
        raise ValueError("an answer without its question")
    question = text_of(value.get("question"), "question")
    answers = answers_of(value.get(first_key(value, "answers", "answer")))
    return Question(question, answers, value["question_id"])


def conversation_of(
    turns: Any,
    has_image: bool,
    own_name: str | None = None,
    images: list[str] | None = None,
    own_id: str | None = None,
) -> Conversation:
    """Turns as they are written in the wild; an image without a mark is shown at the beginning.

    `own_name` is what the source calls the image of the record; `images` and `own_id` are those of
    a `Conversation`. A message in parts that names other images than these is a `ValueError`.
    """
    if isinstance(turns, dict):
        images = images or [id_of(name) for name in _listed(turns.get("images"))]
        turns = turns.get("messages")
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise ValueError("its conversation is no list of turns")
    messages, parts = [], []  # type: list[Message], list[Any]
    for turn in turns:
        speaker = turn.get(first_key(turn, "from", "role"))
        role = SPEAKERS.get(speaker.lower()) if isinstance(speaker, str) else None
        if role is None:
            raise ValueError(f"a turn is by {speaker!r}; known are {', '.join(SPEAKERS)}")
        content = turn.get(first_key(turn, "value", "content"))
        messages.append(Message(role, _content_of(content)))
        parts += [p for p in _listed(content) if isinstance(p, dict) and p.get("type") != "text"]
    for part, expected in zip(parts, images or [own_name or ""], strict=False):
        name = _name_in(part)
        if name and expected and os.path.basename(name) != os.path.basename(expected):
            raise ValueError(f"a message shows {name[:100]}, where its image is {expected[:100]}")
    marked = any(IMAGE_MARK in message.content for message in messages)
    if has_image and not images and not marked:
        first = next((i for i, m in enumerate(messages) if m.role == "user"), None)
        if first is not None:
            messages[first] = Message("user", f"{IMAGE_MARK}\n{messages[first].content}")
    return Conversation(messages, images or [], own_id)


def _name_in(part: Any) -> str | None:
    """What a part of a message calls its image, if it names one."""
    for key in IMAGE_KEYS:
        value = _get(part, key)
        value = _get(value, "url") or _get(value, "path") or value
        if isinstance(value, str) and value and not value.startswith("data:"):
            return id_of(value)
    return None


def _get(value: Any, key: str) -> Any:
    """A key of what may be no object."""
    return value.get(key) if isinstance(value, dict) else None


def _content_of(value: Any) -> str:
    """What a message says, which may be written in parts; an image among them becomes a mark."""
    if not isinstance(value, list):
        return text_of(value, "message")
    texts = []
    for each in value:
        kind = each.get("type") if isinstance(each, dict) else None
        if kind not in ("text", "image", "image_url"):
            raise ValueError(f"a part of a message is neither text nor image ({kind})")
        texts.append(text_of(each.get("text"), "message") if kind == "text" else IMAGE_MARK)
    return "\n".join(texts)


def id_of(value: Any) -> str:
    """An id, which may be a number; in the Unicode form in which all ids are compared."""
    value = _number_written_out(value)
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value)
    raise ValueError(f"its id is neither text nor number ({type(value).__name__})")


def usable_id(value: Any, default: str) -> str:
    """The same, or the default where there is none: nothing, blanks, or what cannot be an id."""
    try:
        found = id_of(value)
    except ValueError:
        return default
    return found if found.strip() else default


def _is_no_id(value: Any) -> bool:
    """Whether a value stands where an id should, and is none."""
    return not is_empty(value) and not usable_id(value, "")


def texts_of(value: Any, kind: str) -> list[str]:
    """A text or a list of them, without the missing ones."""
    return [text_of(each, kind) for each in _listed(value) if not is_absent(each)]


def answers_of(value: Any) -> list[Any]:
    """The same of answers; one that is no text stays as it is, to be rejected alone later."""

    def answer(each: Any) -> Any:
        try:
            return text_of(each, "answer")
        except ValueError:
            return each

    return [answer(each) for each in _listed(value) if not is_absent(each)]


def text_of(value: Any, kind: str) -> str:
    """A text, without the blanks around it.

    Bytes are read as UTF-8 and refused where they are not; numbers are written out, 2.0 as 2.
    """
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"a {kind} is not UTF-8 (byte {error.start})") from None
    value = _number_written_out(value)
    if not isinstance(value, str):
        raise ValueError(f"a {kind} is not a text but {type(value).__name__}")
    return value.strip().removeprefix("\ufeff")


def _number_written_out(value: Any) -> Any:
    """A number as a text; other values, and numbers without an end, as they are.

    A column of integers becomes one of floats as soon as it has a gap: 2.0 there was a 2.
    """
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    if isinstance(value, bool) or (isinstance(value, float) and not math.isfinite(value)):
        return value
    return str(value) if isinstance(value, (int, float)) else value
