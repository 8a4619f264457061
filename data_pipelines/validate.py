"""What a record must be before anything trains on it."""

from collections.abc import Iterator
from typing import NamedTuple

from data_pipelines.images import open_image, pixel_digest
from data_pipelines.records import IMAGE_MARK, ROLES, Conversation, Record

MAX_TEXT_LENGTH = 20_000
"""Longest caption, question, answer or id, in characters; longer ones are files gone astray."""

MAX_DOCUMENT_LENGTH = 1_000_000
"""Longest plain text or message, in characters."""


class ImageFacts(NamedTuple):
    """What decoding tells of an image."""

    digest: str
    """A hash of its upright pixels: equal pictures in different formats have the same."""
    size: tuple[int, int]
    """Width and height in pixels."""


def check_record(record: Record) -> ImageFacts | None:
    """Decode the image and check every text.

    An image without any text is fine: a tokenizer trains on images alone.

    Returns:
        The facts of the image; None where there is none. (The picture itself is let go of in here:
        a large one beside the next would be too much memory.)

    Raises:
        ImageError: if the image is not safe or not whole.
        ValueError: if a text is empty, too long, not UTF-8 or holds a NUL; if a question has no
            answer; if a conversation's turns or marks are out of order; or if a text is about an
            image and the record has none.
    """
    for kind, text, limit in _texts(record):
        _check_text(kind, text, limit)
    for question in record.questions:
        if not question.answers:
            raise ValueError(f"the question {question.question_id} has no answer")
    for conversation in record.conversations:
        _check_conversation(conversation, has_image=record.image is not None)
    if record.image is not None:
        image = open_image(record.image, name="the image")
        return ImageFacts(pixel_digest(image), image.size)
    if record.captions or record.questions:
        raise ValueError("a caption or question, but no image that it is about")
    if record.text is None and not record.conversations:
        raise ValueError("neither an image nor a text")
    return None


def _check_text(kind: str, text: str, limit: int) -> None:
    """Refuse a text that nothing can be learnt from, or that a tokenizer would stumble over."""
    if not isinstance(text, str):
        raise ValueError(f"a {kind} is not a text but {type(text).__name__}")
    if not text.strip():
        raise ValueError(f"an empty {kind}")
    if len(text) > limit:
        raise ValueError(f"a {kind} has {len(text):,} characters; the limit is {limit:,}")
    if "\0" in text:
        raise ValueError(f"a {kind} holds a NUL character")
    try:
        text.encode("utf-8")  # a lone surrogate, as JSON escapes can make, fails here
    except UnicodeEncodeError as error:
        raise ValueError(f"a {kind} is not UTF-8 (character {error.start})") from error


def _check_conversation(conversation: Conversation, has_image: bool) -> None:
    """Refuse turns that no chat template renders, and marks that no image stands at."""
    roles = [message.role for message in conversation.messages]
    unknown = [role for role in roles if role not in ROLES]
    if unknown:
        raise ValueError(f"a message's role is {unknown[0]!r}; known are {', '.join(ROLES)}")
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if not turns or len(turns) % 2 or turns != ["user", "assistant"] * (len(turns) // 2):
        raise ValueError(
            "a conversation is not user and assistant in turn, ending with the assistant"
        )
    marks = [message.content.count(IMAGE_MARK) for message in conversation.messages]
    if conversation.images:
        if len(conversation.images) != sum(marks):
            raise ValueError(
                f"a conversation has {sum(marks)} image marks for {len(conversation.images)} images"
            )
    elif sum(marks) > int(has_image):
        raise ValueError(
            f"a conversation has {sum(marks)} image marks and names no images, and its record has "
            + ("one image" if has_image else "none")
        )


def _texts(record: Record) -> Iterator[tuple[str, str, int]]:
    """Yield (kind, text, limit in characters) for every text of a record."""
    yield "record id", record.record_id, MAX_TEXT_LENGTH
    for caption in record.captions:
        yield "caption", caption, MAX_TEXT_LENGTH
    for question in record.questions:
        yield "question id", question.question_id, MAX_TEXT_LENGTH
        yield "question", question.question, MAX_TEXT_LENGTH
        for answer in question.answers:
            yield "answer", answer, MAX_TEXT_LENGTH
    for conversation in record.conversations:
        for record_id in conversation.images:
            yield "record id", record_id, MAX_TEXT_LENGTH
        for message in conversation.messages:
            yield "message", message.content, MAX_DOCUMENT_LENGTH
    if record.text is not None:
        yield "text", record.text, MAX_DOCUMENT_LENGTH
