"""The one schema: what every source yields and every prepared shard holds.

A record is an image with whatever text belongs to it. The image stays in the bytes it came in, so
nothing is lost by preparing it, and the column layout `struct<bytes, path>` is the one that the
Hugging Face `datasets.Image` feature reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

SCHEMA_VERSION = 1
"""Raised whenever a column changes its name, type or meaning."""

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        pa.field("captions", pa.list_(pa.string())),
        pa.field(
            "questions",
            pa.list_(
                pa.struct(
                    [
                        ("question_id", pa.string()),
                        ("question", pa.string()),
                        ("answers", pa.list_(pa.string())),
                    ]
                )
            ),
        ),
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


@dataclass(frozen=True)
class Record:
    """One image and its text."""

    record_id: str
    """Unique within the data set."""
    image: bytes
    """The encoded file (PNG, JPEG, ...) exactly as it came."""
    captions: list[str]
    """Descriptions of the whole image; may be empty."""
    questions: list[Question]
    """Questions about the image; may be empty."""


@dataclass(frozen=True)
class Reject:
    """A record that a source found but could not, or must not, read."""

    record_id: str
    """The id that the record would have had."""
    reason: str
    """One clause for the user."""


def record_to_row(record: Record) -> dict[str, Any]:
    """Return the record as a row of `SCHEMA`."""
    return {
        "id": record.record_id,
        "image": {"bytes": record.image, "path": None},
        "captions": record.captions,
        "questions": [
            {"question_id": q.question_id, "question": q.question, "answers": q.answers}
            for q in record.questions
        ],
    }


def record_from_row(row: dict[str, Any]) -> Record:
    """Return the record in a row of `SCHEMA`; the inverse of `record_to_row`."""
    return Record(
        record_id=row["id"],
        image=row["image"]["bytes"],
        captions=list(row["captions"]),
        questions=[
            Question(q["question"], list(q["answers"]), q["question_id"]) for q in row["questions"]
        ],
    )
