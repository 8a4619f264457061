"""The one schema: what every source yields and every prepared shard holds.

A record is an image with whatever text belongs to it, or text alone. The image stays in the bytes
it came in, so nothing is lost by preparing it, and the column layout `struct<bytes, path>` is the
one that the Hugging Face `datasets.Image` feature reads. An image is stored once, as some record's
own; a conversation about several images names the other records that hold them.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

SCHEMA_VERSION = 3
"""Raised whenever a column changes its name, type or meaning, or shards their format."""
IMAGE_MARK = "<image>"
"""Stands in a message where an image is shown."""
ROLES = ("system", "user", "assistant")
"""Who speaks a message."""

_TEXT, _TEXTS = pa.string(), pa.list_(pa.string())
_QUESTION = pa.struct({"question_id": _TEXT, "question": _TEXT, "answers": _TEXTS})
_MESSAGE = pa.struct({"role": _TEXT, "content": _TEXT})
SCHEMA = pa.schema(
    [
        pa.field("id", _TEXT, nullable=False),
        pa.field("image", pa.struct({"bytes": pa.binary(), "path": _TEXT})),
        pa.field("captions", _TEXTS),
        pa.field("questions", pa.list_(_QUESTION)),
        pa.field(
            "conversations",
            pa.list_(pa.struct({"images": _TEXTS, "messages": pa.list_(_MESSAGE)})),
        ),
        pa.field("text", _TEXT),
    ]
)


@dataclass(frozen=True)
class Question:
    """One question about an image."""

    question: str
    """The question as asked."""
    answers: list[str]
    """Accepted answers, one for each annotator; repeats count."""
    question_id: str
    """Unique within the data set."""
    own_id: str | None = field(default=None, compare=False)
    """What its source calls it, where a record gathers entries of their own; not written."""


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str
    """One of `ROLES`."""
    content: str
    """What is said, with an `IMAGE_MARK` wherever an image is shown."""


@dataclass(frozen=True)
class Conversation:
    """Turns between a user and an assistant, after at most one system message."""

    messages: list[Message]
    """In order: the system's, if any, then user and assistant in turn; the assistant's is last."""
    images: list[str] = field(default_factory=list)
    """Ids of the records whose images stand at the marks, in order; empty where the only mark, if
    there is one, is the record's own image."""
    own_id: str | None = field(default=None, compare=False)
    """As of a question."""


@dataclass(frozen=True)
class Record:
    """One image and its text, or text alone."""

    record_id: str
    """Unique within the data set."""
    image: bytes | None
    """The encoded file (PNG, JPEG, ...) exactly as it came; None for text alone."""
    captions: list[str] = field(default_factory=list)
    """Descriptions of the whole image."""
    questions: list[Question] = field(default_factory=list)
    """Questions about the image."""
    conversations: list[Conversation] = field(default_factory=list)
    """Conversations, about the image or without any."""
    text: str | None = None
    """Plain text without an image, to be read as it stands."""


@dataclass(frozen=True)
class RecordText:
    """A record without the bytes of its image."""

    record_id: str
    has_image: bool
    """Whether there is an image, and so codes."""
    captions: list[str]
    questions: list[Question]
    conversations: list[Conversation]
    text: str | None


@dataclass(frozen=True)
class Reject:
    """A record, or a part of one, that cannot or must not be used."""

    record_id: str
    """Its own id; of a part without one, that of its record."""
    reason: str
    """One clause for the user."""
    kind: str = ""
    """Of a part without an id of its own: which it is, such as `caption-2`."""


def record_to_row(record: Record) -> dict[str, Any]:
    """The record as a row of `SCHEMA`."""
    row = asdict(record)
    for part in (*row["questions"], *row["conversations"]):
        del part["own_id"]
    image = None if record.image is None else {"bytes": record.image, "path": None}
    return {"id": row.pop("record_id"), **row, "image": image}


def record_from_row(row: dict[str, Any]) -> Record:
    """The record in a row of `SCHEMA`; the inverse of `record_to_row`."""
    image = None if row["image"] is None else row["image"]["bytes"]
    return Record(row["id"], image, *_texts(row))


def text_from_row(row: dict[str, Any], has_image: bool) -> RecordText:
    """The text of a row of `SCHEMA`, whose image need not be there."""
    return RecordText(row["id"], has_image, *_texts(row))


def _texts(row: dict[str, Any]) -> tuple[list[str], list[Question], list[Conversation], str | None]:
    conversations = [
        Conversation([Message(**message) for message in found["messages"]], found["images"])
        for found in row["conversations"]
    ]
    return row["captions"], [Question(**q) for q in row["questions"]], conversations, row["text"]
