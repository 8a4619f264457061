"""What a record must be before anything trains on it."""

from __future__ import annotations

from collections.abc import Iterator

from data_pipelines.images import open_image
from data_pipelines.records import Record

MAX_TEXT_LENGTH = 20_000
"""Longest caption, question or answer, in characters; longer ones are files gone astray."""


def check_record(record: Record) -> tuple[int, int]:
    """Decode the image and look at every text.

    A record without any text is fine: a tokenizer trains on images alone.

    Returns:
        The upright image's (width, height) in pixels.

    Raises:
        ImageError: if the image is not safe or not whole.
        ValueError: if a text is empty, too long, not UTF-8 or holds a NUL; or if a question has no
            answer.
    """
    for kind, text in _texts(record):
        if not text.strip():
            raise ValueError(f"an empty {kind}")
        if len(text) > MAX_TEXT_LENGTH:
            raise ValueError(
                f"a {kind} has {len(text):,} characters; the limit is {MAX_TEXT_LENGTH:,}"
            )
        if "\0" in text:
            raise ValueError(f"a {kind} holds a NUL character")
        try:
            text.encode("utf-8")  # a lone surrogate, as JSON escapes can make, fails here
        except UnicodeEncodeError as error:
            raise ValueError(f"a {kind} is not UTF-8 (character {error.start})") from error
    for question in record.questions:
        if not question.answers:
            raise ValueError(f"the question {question.question_id} has no answer")
    return open_image(record.image, name="the image").size


def _texts(record: Record) -> Iterator[tuple[str, str]]:
    """Yield (kind, text) for every text of a record."""
    yield "record id", record.record_id
    for caption in record.captions:
        yield "caption", caption
    for question in record.questions:
        yield "question id", question.question_id
        yield "question", question.question
        for answer in question.answers:
            yield "answer", answer
