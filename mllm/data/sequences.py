"""Training documents: which tokens, which labels, who may look at whom.

A document is a stem and any number of branches. Every branch sees the stem and itself, no other
branch: ten questions about one image share its tokens, and no question sees another's answer.

    token      <u> <boi> 7 4 <eoi> color? <a> red </s>  circle? <a> no </s>
    branch      0    0   0 0   0     1     1   1    1      2     2   2   2
    position    0    1   2 3   4     5     6   7    8      5     6   7   8
    label       -    -   - -   -     -     -  red </s>     -     -   no </s>
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from mllm.model.chat_template import ChatEncoder

IGNORE = -100


@dataclass
class Document:
    """Parallel lists, one entry a token.

    Attributes:
        token_ids: of text and images.
        labels: the token's own id where it is to be predicted, -100 elsewhere.
        weights: of the labels in the loss.
        branches: 0 in the stem, 1, 2, … in the branches.
        positions: place along its own path, so every branch starts where the stem ends.
    """

    token_ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    branches: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.token_ids)

    def extend(
        self, token_ids: list[int], branch: int, position: int, weight: float | None = None
    ) -> int:
        """Append tokens; with a weight they are labels. Returns the next position."""
        self.token_ids += token_ids
        self.labels += [IGNORE] * len(token_ids) if weight is None else token_ids
        self.weights += [weight or 0.0] * len(token_ids)
        self.branches += [branch] * len(token_ids)
        self.positions += range(position, position + len(token_ids))
        return position + len(token_ids)


def question_document(
    chat: ChatEncoder,
    image_token_ids: list[int],
    questions: list[tuple[str, str]],
    weight: float = 1.0,
    max_length: int | None = None,
) -> Document:
    """Questions about one image, each a branch after the image.

    Args:
        chat: renders the template.
        image_token_ids: the image's N token ids.
        questions: (question, answer) pairs.
        weight: of each answer in the loss, shared equally by its tokens.
        max_length: questions that would pass it are left out.
    """
    prompts = [chat.question(question) for question, _ in questions]
    stem = prompts[0][: prompts[0].index(chat.end_of_image_id) + 1]
    document = Document()
    position = document.extend(fill_image(chat, stem, image_token_ids), 0, 0)
    for branch, (prompt, (question, answer)) in enumerate(zip(prompts, questions, strict=True), 1):
        answer_ids = chat.answer(question, answer)
        tail = prompt[len(stem) :]
        if max_length is not None and len(document) + len(tail) + len(answer_ids) > max_length:
            continue
        after = document.extend(tail, branch, position)
        document.extend(answer_ids, branch, after, weight / len(answer_ids))
    return document


def drawing_document(
    chat: ChatEncoder, caption: str, image_token_ids: list[int], weight: float = 1.0
) -> Document:
    """Caption → image; the image's tokens are the labels, and share the weight equally."""
    document = Document()
    position = document.extend(chat.drawing(caption), 0, 0)
    position = document.extend(image_token_ids, 0, position, weight / len(image_token_ids))
    document.extend(chat.drawing_end(), 0, position)
    return document


def conversation_document(
    chat: ChatEncoder,
    messages: list[tuple[str, str]],
    images: list[list[int]],
    answer_weight: float = 1.0,
    drawing_weight: float = 1.0,
    max_length: int | None = None,
) -> Document:
    """Turns about any number of images, which may stand anywhere.

    Images that the assistant draws are labels, like the tokens that it writes before and after.

    Args:
        chat: renders the template.
        messages: (role, content), with a mark for each image.
        images: token ids of the images, in the order of their marks.
        answer_weight: of each answer's text in the loss, shared equally by its tokens.
        drawing_weight: of each image in an answer, likewise.
        max_length: whole turns that would pass it are left out, from the last one on.

    Raises:
        ValueError: if there are more or fewer marks than images.
    """
    pieces = chat.conversation(messages)
    marks = sum(token_ids.count(chat.begin_of_image_id) for token_ids, _ in pieces)
    if marks != len(images):
        raise ValueError(f"{marks} image marks, but {len(images)} images")
    document, position, rest = Document(), 0, iter(images)
    for (prompt, _), (answer, _) in zip(pieces[::2], pieces[1::2], strict=True):
        length = len(document) + len(prompt) + len(answer)
        if max_length is not None and len(document) and length > max_length:
            break
        position = document.extend(_fill(chat, prompt, rest), 0, position)
        start = len(document)
        position = document.extend(_fill(chat, answer, rest), 0, position)
        # A drawn image ends by itself after its N codes: its end token is nobody's choice.
        drawn = [token_id == chat.image_id for token_id in answer]
        words = [
            not image and token_id != chat.end_of_image_id
            for token_id, image in zip(answer, drawn, strict=True)
        ]
        for place in range(len(answer)):
            if drawn[place] or words[place]:
                document.labels[start + place] = document.token_ids[start + place]
                document.weights[start + place] = (
                    drawing_weight / chat.num_image_positions
                    if drawn[place]
                    else answer_weight / sum(words)
                )
    return document


def text_document(
    chat: ChatEncoder, text: str, weight: float = 1.0, max_length: int | None = None, start: int = 0
) -> Document:
    """Plain text, every token but the first a label; they share the weight equally.

    Args:
        chat: tokenises.
        text: as it stands.
        weight: of the text in the loss.
        max_length: what of it is kept.
        start: first token that is kept; taken modulo what there is to choose from.
    """
    token_ids = chat.text(text)
    if max_length is not None and len(token_ids) > max_length:
        start %= len(token_ids) - max_length + 1
        token_ids = token_ids[start : start + max_length]
    document = Document()
    position = document.extend(token_ids[:1], 0, 0)
    # Nothing comes before the first token, so nothing predicts it.
    if len(token_ids) > 1:
        document.extend(token_ids[1:], 0, position, weight / (len(token_ids) - 1))
    return document


def _fill(chat: ChatEncoder, token_ids: list[int], images: Iterator[list[int]]) -> list[int]:
    """Put the next image's token ids after each begin-of-image token."""
    filled: list[int] = []
    for token_id in token_ids:
        if token_id != chat.image_id:
            filled.append(token_id)
        if token_id == chat.begin_of_image_id:
            filled += next(images)
    return filled


def fill_image(chat: ChatEncoder, token_ids: list[int], image_token_ids: list[int]) -> list[int]:
    """Put image token ids, in order, where the placeholders are."""
    rest = iter(image_token_ids)
    return [next(rest) if token_id == chat.image_id else token_id for token_id in token_ids]
