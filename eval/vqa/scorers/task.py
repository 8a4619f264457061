"""What a benchmark's rule is made of, and the questions that it scores."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ImageSource = Path | bytes | Callable[[], bytes]
"""A file, an encoded image, or what reads one when it is needed."""


def image_data(source: ImageSource) -> Path | bytes:
    """The file or the encoded image, read where it was not yet."""
    return source() if callable(source) else source


@dataclass(frozen=True)
class BenchmarkQuestion:
    """One question of a benchmark, with all that its rule looks at."""

    question_id: str
    """Unique within the set."""
    question: str
    """As the benchmark asks it, without any instruction about the form of the answer."""
    answers: tuple[str, ...]
    """Accepted answers, one for each annotator; the letter, where there are options."""
    category: str = ""
    """The benchmark's own question type; "" where it has none."""
    group: str = ""
    """Questions that count together: both of an MME image, all rotations of an MMBench item."""
    options: tuple[str, ...] = ()
    """Texts of the choices A, B, C ...; empty for open questions."""
    image_id: str = ""
    """Which image; questions of one image share it."""
    images: tuple[ImageSource, ...] = field(default=(), compare=False, repr=False)
    """The pictures, in the order of the `<image>` marks, or one that stands first."""


@dataclass(frozen=True)
class Judged:
    """A question with its answer and what the rule made of it."""

    question: BenchmarkQuestion
    prediction: str
    """The answer as given."""
    read_as: str
    """What the rule reads in it, such as "yes" or "B"; "" where it reads nothing."""
    score: float
    """In [0, 1]."""


@dataclass(frozen=True)
class Task:
    """A benchmark: how to ask, how to score one answer, what to make of all of them."""

    name: str
    """As `--task` has it."""
    rule: str
    """The rule in a sentence; two results with other rules are not comparable."""
    judge: Callable[[BenchmarkQuestion, str], tuple[str, float]]
    """(question, prediction) → what is read in it, and its score in [0, 1]."""
    complaint: Callable[[BenchmarkQuestion], str | None] = lambda question: None
    """Why the rule cannot score a question, as a clause; None where it can."""
    check_set: Callable[[Sequence[BenchmarkQuestion]], str | None] = lambda questions: None
    """Why the rule cannot score a whole set, as a clause."""
    is_unread: Callable[[Judged], bool] = lambda entry: not entry.read_as.strip()
    """Whether the rule could read nothing in an answer; such answers count as the rule has it."""
    figures: Callable[[Sequence[Judged]], dict[str, Any]] = lambda judged: {}
    """The benchmark's own figures beside the accuracy."""
    instruction: str = ""
    """Written after the question, on a line of its own."""
    max_new_tokens: int = 16
    """Longest answer."""


SHORT_ANSWER = "Answer the question using a single word or phrase."
"""What LLaVA-v1.5 and most since it ask of models on VQAv2, GQA, TextVQA, POPE and MME."""
