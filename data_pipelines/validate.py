"""What a record must be before anything trains on it.

A part that is not acceptable (a caption, question, conversation or text) is rejected by itself, and
what else the record holds stays. A record none of whose texts is acceptable is rejected whole.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

from data_pipelines.images import ImageError, open_image, pixel_digest
from data_pipelines.records import IMAGE_MARK, ROLES, Conversation, Question, Record, Reject

MAX_TEXT_LENGTH = 20_000
"""Longest caption, question, answer or id, in characters; longer ones are files gone astray."""
MAX_DOCUMENT_LENGTH = 1_000_000
"""Longest plain text or message, in characters."""
T = TypeVar("T", bound=str | Question | Conversation)


class ImageFacts(NamedTuple):
    """What decoding tells of an image."""

    digest: str
    """A hash of its upright pixels: equal pictures in different formats have the same."""
    size: tuple[int, int]
    """Width and height in pixels."""


class Checked(NamedTuple):
    """What is left of a record."""

    record: Record | None
    """Its good parts; None where it is rejected."""
    facts: ImageFacts | None
    """Of its image, if there is one."""
    rejects: list[Reject]
    """The record, or entries that it gathers, each with its own id."""
    parts: list[Reject]
    """Other parts of a record that is accepted, called `ID#KIND-NUMBER`."""


def check_record(record: Record, rejects: Sequence[Reject] = ()) -> Checked:
    """Decode the image and check every text; `rejects` are parts that could not be read.

    An image without any text is fine: a tokenizer trains on images alone. (The picture itself is
    let go of in here: a large one beside the next would be too much memory.)
    """
    rejected = list(rejects)
    try:
        _check_text(record.record_id, "record id")
        facts = None if record.image is None else _facts(record.image)
    except (ImageError, ValueError) as error:
        return Checked(None, None, _whole(record, rejected, str(error)), [])
    has_image = facts is not None
    unread = {part.kind for part in rejects if part.record_id == record.record_id}

    def good(kind: str, parts: Sequence[T], check: Callable[..., T], *args: Any) -> list[T]:
        kept = []
        # Those that could not be read have kept their numbers.
        numbers = (n for n in itertools.count(1) if f"{kind}-{n}" not in unread)
        for number, part in zip(numbers, parts, strict=False):
            try:
                if not has_image and kind in ("caption", "question"):
                    raise ValueError(f"a {kind}, but no image that it is about")
                kept.append(check(part, *args))
            except ValueError as error:
                own_id = getattr(part, "own_id", None)
                name = "" if own_id else f"{kind}-{number}"
                rejected.append(Reject(own_id or record.record_id, str(error), name))
        return kept

    texts = [] if record.text is None else [record.text]
    kept = replace(
        record,
        captions=good("caption", record.captions, _check_text, "caption"),
        questions=good("question", record.questions, _check_question, rejected),
        conversations=good("conversation", record.conversations, _check_conversation, has_image),
        text=next(iter(good("text", texts, _check_text, "text", MAX_DOCUMENT_LENGTH)), None),
    )
    has_text = kept.captions or kept.questions or kept.conversations or kept.text is not None
    if not has_text and (rejected or not has_image):
        reason = "neither an image nor a text"
        return Checked(None, None, _whole(kept, rejected, reason), [])
    parts = [Reject(f"{part.record_id}#{part.kind}", part.reason) for part in rejected if part.kind]
    return Checked(kept, facts, [part for part in rejected if not part.kind], parts)


def _facts(encoded: bytes) -> ImageFacts:
    image = open_image(encoded, name="the image")
    return ImageFacts(pixel_digest(image), image.size)


def _whole(record: Record, rejected: list[Reject], reason: str) -> list[Reject]:
    """The rejects of a record that is not accepted: its parts that have ids, or else itself.

    `record` has the parts that are not among the `rejected` yet, and `reason` is theirs.
    """
    own = [part for part in rejected if not part.kind]
    others = [part.reason for part in rejected if part.kind]
    parts: list[Question | Conversation] = [*record.questions, *record.conversations]
    own += [Reject(part.own_id, reason) for part in parts if part.own_id]
    unnamed = record.captions or record.text is not None or any(not part.own_id for part in parts)
    if others or unnamed or not own:
        own.append(Reject(record.record_id, others[0] if others else reason))
    return own


def _check_text(text: Any, kind: str, limit: int = MAX_TEXT_LENGTH) -> Any:
    """A text; refused if nothing can be learnt from it, or a tokenizer would stumble over it."""
    a = "an" if kind == "answer" else "a"
    if not isinstance(text, str):
        raise ValueError(f"{a} {kind} is not a text but {type(text).__name__}")
    if not text.strip():
        raise ValueError(f"an empty {kind}")
    if len(text) > limit:
        raise ValueError(f"{a} {kind} has {len(text):,} characters; the limit is {limit:,}")
    if "\0" in text:
        raise ValueError(f"{a} {kind} holds a NUL character")
    try:
        text.encode("utf-8")  # a lone surrogate, as JSON escapes can make, fails here
    except UnicodeEncodeError as error:
        raise ValueError(f"{a} {kind} is not UTF-8 (character {error.start})") from error
    return text


def _check_question(question: Question, rejected: list[Reject]) -> Question:
    """Refuse a question without any good answer; bad ones beside good ones are rejected alone."""
    _check_text(question.question_id, "question id")
    _check_text(question.question, "question")
    answers, bad = [], []
    for number, answer in enumerate(question.answers, start=1):
        try:
            answers.append(_check_text(answer, "answer"))
        except ValueError as error:
            bad.append(Reject(question.question_id, str(error), f"answer-{number}"))
    if not answers:
        none = f"the question {question.question_id} has no answer"
        raise ValueError(bad[0].reason if bad else none)
    rejected += bad
    return replace(question, answers=answers)


def _check_conversation(conversation: Conversation, has_image: bool) -> Conversation:
    """Refuse turns that no chat template renders, and marks that no image stands at."""
    for message in conversation.messages:
        _check_text(message.content, "message", MAX_DOCUMENT_LENGTH)
    for name in conversation.images:
        _check_text(name, "record id")
    roles = [message.role for message in conversation.messages]
    if unknown := [role for role in roles if role not in ROLES]:
        raise ValueError(f"a message's role is {unknown[0]!r}; known are {', '.join(ROLES)}")
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if not turns or turns != ["user", "assistant"] * (len(turns) // 2):
        order = "user and assistant in turn, ending with the assistant"
        raise ValueError(f"a conversation is not {order}")
    marks = sum(message.content.count(IMAGE_MARK) for message in conversation.messages)
    if conversation.images:
        if (number := len(conversation.images)) != marks:
            raise ValueError(f"a conversation has {marks} image marks for {number} images")
    elif marks > int(has_image):
        own = "one image" if has_image else "none"
        marked = f"a conversation has {marks} image marks and names no images"
        raise ValueError(f"{marked}, and its record has {own}")
    return conversation
