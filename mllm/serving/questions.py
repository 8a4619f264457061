"""Lists of questions about images, from the command line or JSONL, read one at a time.

    {"id": "7", "image": "a.png", "question": "what color is it?"}
    {"images": ["a.png", "b.png"], "question": "<image> or <image>?", "options": ["first", "last"]}

Files are looked for beside the list. Images come before the question, unless it says where with
`<image>`.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from data_pipelines.records import IMAGE_MARK
from runtime.errors import UserError
from runtime.json_lines import first_given, note_left_out, parse_object, unread_fields

FIELDS = ("image", "images", "question", "options", "id", "question_id")
MEANT = {"choices": "options", "image_path": "image", "text": "question", "prompt": "question"}
"""Fields that are not read, and those that they may have meant."""


@dataclass(frozen=True)
class Asked:
    """One question about image files, with an `<image>` where each is shown; `name` is its id in
    the list, or its number, and `options` are empty where the answer is to be written."""

    name: str
    images: tuple[Path, ...]
    question: str
    options: tuple[str, ...] = ()

    @property
    def messages(self) -> list[dict[str, str]]:
        """As a conversation of one turn."""
        return [{"role": "user", "content": self.question}]

    def record(self) -> dict[str, Any]:
        """What an answer is written beside."""
        question = self.question
        if question.startswith(IMAGE_MARK * len(self.images)):
            question = question.replace(IMAGE_MARK, "").strip()
        return {"id": self.name, "images": list(map(str, self.images)), "question": question}


def _with_marks(question: str, num_images: int, place: str) -> str:
    """The question with a mark for each image: before it, unless it has its own."""
    found = question.count(IMAGE_MARK)
    if found == 0:
        return IMAGE_MARK * num_images + question
    if found != num_images:
        raise UserError(
            f"{place} shows {found} images with {IMAGE_MARK}, and names {num_images}: make them as "
            f"many."
        )
    return question


def asked_each(
    images: list[Path], questions: list[str], options: list[str] | None, together: bool
) -> list[Asked]:
    """Every question about every image, or about all of them together."""
    groups = [tuple(images)] if together else [(image,) for image in images]
    numbers, choices = count(), tuple(options or ())
    return [
        Asked(str(next(numbers)), group, _with_marks(question, len(group), "The question"), choices)
        for group in groups
        for question in questions
    ]


def read_questions(path: Path, options: list[str] | None = None) -> Iterator[Asked]:
    """The questions of a JSONL file; `options` are those of the questions that bring none.

    Fields that are not read are counted, and named on stderr behind the last question.

    Raises:
        UserError: for a file that cannot be read, and at a line that asks nothing.
    """
    unread = Counter[str]()
    try:
        with open(path, encoding="utf-8-sig", newline="\n") as file:  # Windows marks the beginning
            lines = ((number, line) for number, line in enumerate(file, 1) if line.strip())
            for number, (line_number, line) in enumerate(lines):
                place = f"line {line_number} of {path}"
                entry = parse_object(line, place, '{"image": ..., "question": ...}')
                unread.update(entry.keys() - {*FIELDS})
                yield _asked(entry, place, number, path.parent, tuple(options or ()))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as UTF-8 text: {error}") from error
    note_left_out(path, unread_fields(unread, FIELDS, MEANT))


def _asked(
    entry: dict[str, Any], place: str, number: int, beside: Path, options: tuple[str, ...]
) -> Asked:
    question = entry.get("question")
    if not isinstance(question, str) or not question.replace(IMAGE_MARK, "").strip():
        raise UserError(f"{place} has no question: write at least one word.")
    named = [value for key in ("images", "image") if (value := entry.get(key))]
    first, *others = [[value] if isinstance(value, str) else value for value in named] or [[]]
    if any(other != first for other in others):
        raise UserError(f"{place} names images under both image and images: name all in images.")
    images = first
    if not isinstance(images, list) or not all(isinstance(name, str) for name in images):
        raise UserError(f"{place} names its images in another way than as file names.")
    own = entry.get("options") or options
    if not isinstance(own, list | tuple) or not all(
        isinstance(text, str) and text.strip() for text in own
    ):
        raise UserError(f"{place} has options that are not a list of texts.")
    if len({text.strip() for text in own}) != len(own) or len(own) == 1:
        raise UserError(f"{place} has no two different options to choose from.")
    question = _with_marks(question.strip(), len(images), place)
    name = str(first_given(entry, "id", "question_id", default=number))
    return Asked(name, tuple(beside / image for image in images), question, tuple(own))
