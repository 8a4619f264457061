"""Training documents: which tokens, which labels, who may look at whom.

A document is a prefix and any number of suffixes. Every suffix sees the prefix and itself, no other
suffix: ten questions about one image share its tokens, and no question sees another's answer.

    token      <u> <boi> 7 4 <eoi> color? <a> red </s>  circle? <a> no </s>
    suffix      0    0   0 0   0     1     1   1    1      2     2   2   2
    position    0    1   2 3   4     5     6   7    8      5     6   7   8
    label       -    -   - -   -     -     -  red </s>     -     -   no </s>

It is kept as spans, whose lengths alone say how long it is: for that, `range(N)` may stand in for
an image of N tokens whose codes nobody has read yet.

Shapes: N tokens of an image.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from mllm.model.chat_template import ChatEncoder

IGNORE = -100


@dataclass(frozen=True)
class Span:
    """Consecutive tokens that are treated alike.

    Attributes:
        token_ids: of text or of an image.
        weight: of each token as a label in the loss; None where the tokens are no labels.
        suffix: 0 in the prefix, 1, 2, … in the suffixes.
        position: of the first token along its own path, so every suffix starts where the prefix
            ends.
    """

    token_ids: Sequence[int]
    weight: float | None
    suffix: int
    position: int


@dataclass
class Document:
    """Spans in their order, and how many questions, turns or tokens of the record did not fit."""

    spans: list[Span] = field(default_factory=list)
    num_left_out: int = field(default=0, compare=False)

    def __len__(self) -> int:
        return sum(len(span.token_ids) for span in self.spans)

    def add(
        self, token_ids: Sequence[int], position: int, weight: float | None = None, suffix: int = 0
    ) -> int:
        """Append tokens; with a weight they are labels. Returns the next position."""
        if len(token_ids):
            self.spans.append(Span(token_ids, weight, suffix, position))
        return position + len(token_ids)

    def columns(self) -> dict[str, list]:
        """Parallel lists, one entry a token: `input_ids`; `labels`, the token's own id where it is
        to be predicted and -100 elsewhere; `label_weights`; `position_ids`; `suffixes`."""
        columns: dict[str, list] = {
            "input_ids": [], "labels": [], "label_weights": [], "position_ids": [], "suffixes": [],
        }  # fmt: skip
        for span in self.spans:
            length = len(span.token_ids)
            columns["input_ids"] += span.token_ids
            columns["labels"] += [IGNORE] * length if span.weight is None else span.token_ids
            columns["label_weights"] += [span.weight or 0.0] * length
            columns["position_ids"] += range(span.position, span.position + length)
            columns["suffixes"] += [span.suffix] * length
        return columns


def question_document(
    chat: ChatEncoder,
    image: Sequence[int],
    questions: list[tuple[str, str]],
    weight: float = 1.0,
    max_length: int | None = None,
) -> Document:
    """Questions about one image, each a suffix after the image.

    Args:
        image: N token ids.
        questions: (question, answer) pairs.
        weight: of each answer in the loss, divided equally among its tokens.
        max_length: questions that would exceed it are left out.
    """
    prompts = [chat.question_ids(question) for question, _ in questions]
    prefix = prompts[0][: prompts[0].index(chat.end_of_image_id) + 1]
    document = Document()
    position = _add_turn(document, chat, prefix, iter([image]), 0)
    length = len(document)
    for suffix, (prompt, (question, answer)) in enumerate(zip(prompts, questions, strict=True), 1):
        answer_ids = chat.answer(question, answer)
        asked = prompt[len(prefix) :]
        if max_length is not None and length + len(asked) + len(answer_ids) > max_length:
            document.num_left_out += 1
            continue
        length += len(asked) + len(answer_ids)
        after = document.add(asked, position, suffix=suffix)
        document.add(answer_ids, after, weight / len(answer_ids), suffix)
    return document


def drawing_document(
    chat: ChatEncoder, caption: str, image: Sequence[int], weight: float = 1.0
) -> Document:
    """Caption → image; the image's tokens are the labels, and divide the weight equally."""
    document = Document()
    position = document.add(chat.drawing(caption), 0)
    position = document.add(image, position, weight / len(image))
    document.add(chat.drawing_end(), position)
    return document


def conversation_document(
    chat: ChatEncoder,
    messages: list[tuple[str, str]],
    images: list[Sequence[int]],
    answer_weight: float = 1.0,
    drawing_weight: float = 1.0,
    max_length: int | None = None,
) -> Document:
    """Turns about any number of images, which may stand anywhere.

    Images that the assistant draws are labels, like the tokens that it writes before and after.

    Args:
        messages: (role, content), with a mark for each image.
        images: token ids of the images, in the order of their marks.
        answer_weight: of each answer's text in the loss, divided equally among its tokens.
        drawing_weight: of each image in an answer, likewise.
        max_length: whole turns that would exceed it are left out, from the last one on.

    Raises:
        ValueError: if there are more or fewer marks than images.
    """
    turns = chat.conversation(messages)
    marks = sum(part.count(chat.image_id) for turn in turns for part in turn)
    if marks != len(images):
        raise ValueError(f"{marks} image marks, but {len(images)} images")
    document, position, rest = Document(), 0, iter(images)
    for number, (prompt, answer) in enumerate(turns):
        length = position + chat.length(prompt) + chat.length(answer)
        if max_length is not None and position and length > max_length:
            document.num_left_out = len(turns) - number
            break
        position = _add_turn(document, chat, prompt, rest, position)
        position = _add_turn(document, chat, answer, rest, position, answer_weight, drawing_weight)
    return document


def text_document(
    chat: ChatEncoder, text: str, weight: float = 1.0, max_length: int | None = None, start: int = 0
) -> Document:
    """Plain text, every token but the first a label; they divide the weight equally.

    At most `max_length` tokens are kept, from `start` on, modulo what there is to choose from.
    """
    token_ids, document = chat.text(text), Document()
    if max_length is not None and len(token_ids) > max_length:
        document.num_left_out = len(token_ids) - max_length
        start %= document.num_left_out + 1
        token_ids = token_ids[start : start + max_length]
    position = document.add(token_ids[:1], 0)
    # Nothing comes before the first token, so nothing predicts it.
    document.add(token_ids[1:], position, weight / max(1, len(token_ids) - 1))
    return document


def _add_turn(
    document: Document,
    chat: ChatEncoder,
    token_ids: Sequence[int],
    images: Iterator[Sequence[int]],
    position: int,
    answer_weight: float | None = None,
    drawing_weight: float | None = None,
) -> int:
    """Append a turn, with the next image wherever one stands; with weights, it is labels. Returns
    the next position.

    An image ends by itself after its N codes, so its end token is nobody's choice and no label.
    """
    not_words = (chat.image_id, chat.end_of_image_id)
    num_words = sum(token_id not in not_words for token_id in token_ids)
    word_weight = None if answer_weight is None else answer_weight / max(1, num_words)
    for kind, same in groupby(token_ids, key=lambda i: i if i in not_words else None):
        if kind == chat.image_id:
            for image in (next(images) for _ in same):
                weight = None if drawing_weight is None else drawing_weight / len(image)
                position = document.add(image, position, weight)
        else:
            position = document.add(list(same), position, word_weight if kind is None else None)
    return position
