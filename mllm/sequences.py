"""Training documents: which tokens, which labels, who may look at whom.

A document is a stem and any number of branches. Every branch sees the stem and itself, no other
branch: ten questions about one image share its tokens, and no question sees another's answer.

    token      <u> <boi> 7 4 <eoi> color? <a> red </s>  circle? <a> no </s>
    branch      0    0   0 0   0     1     1   1    1      2     2   2   2
    position    0    1   2 3   4     5     6   7    8      5     6   7   8
    label       -    -   - -   -     -     -  red </s>     -     -   no </s>
"""

from dataclasses import dataclass, field

from mllm.chat import ChatEncoder

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


def fill_image(chat: ChatEncoder, token_ids: list[int], image_token_ids: list[int]) -> list[int]:
    """Put image token ids, in order, where the placeholders are."""
    rest = iter(image_token_ids)
    return [next(rest) if token_id == chat.image_id else token_id for token_id in token_ids]
