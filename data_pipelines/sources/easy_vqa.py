"""easy-VQA (Victor Zhou, 2019): 5,000 small pictures of one shape, and questions about them.

The PyPI package `easy-vqa` carries the data: 64 x 64 RGB images in the official split of 4,000 and
1,000, with 38,575 and 9,673 questions. It has no captions, so one such as "a teal triangle" is
made from what the questions and answers of the image tell; where they leave the colour or the
shape open, from its pixels.
"""

import importlib.util
import json
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from data_pipelines.images import open_image
from data_pipelines.records import Question, Record
from data_pipelines.sources.easy_vqa_shapes import PALETTE, SHAPES, judge_shape
from data_pipelines.sources.rows import Found, Rows
from runtime.errors import UserError

LICENCE = "MIT"
ORIGIN = "easy-VQA 1.0 by Victor Zhou, PyPI package easy-vqa, https://github.com/vzhou842/easy-VQA"
NUM_IMAGES = {"train": 4000, "test": 1000}
"""The official split."""
AGAIN = "run: pip install --force-reinstall easy-vqa"


def read_rows(split: str) -> Rows:
    """The images of a split, `train` or `test`, in the order of their numbers."""
    folder = data_folder() / split
    try:
        rows = json.loads((folder / "questions.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"the questions of easy-VQA cannot be read ({error}); {AGAIN}") from error
    asked: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for question, answer, image_number in rows:
        asked[image_number].append((question, answer))
    numbers = sorted(asked)

    def read(index: int) -> Found:
        number = numbers[index]
        path, record_id = folder / "images" / f"{number}.png", f"easy-vqa-{split}-{number:06d}"
        try:
            image = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}); {AGAIN}") from error
        questions = [
            Question(question, [answer], f"{record_id}-{n:02d}")
            for n, (question, answer) in enumerate(asked[number])
        ]
        caption = caption_of(asked[number], image)
        return Found(Record(record_id, image, [caption], questions))

    return Rows(len(numbers), read)


def data_folder() -> Path:
    """The folder of the installed package that holds `train` and `test`."""
    spec = importlib.util.find_spec("easy_vqa")
    if spec is None or spec.origin is None:
        raise UserError("the easy-VQA data is not installed; run: pip install easy-vqa")
    return Path(spec.origin).parent / "data"


def stated_truth(asked: Iterable[tuple[str, str]]) -> tuple[set[str], set[str]]:
    """The colours and shapes that the questions about an image and their answers leave possible.

    "what is the teal shape?" tells that the shape is teal whatever the answer, a yes to "is there
    a circle?" or a no to "is no circle present?" tells that it is one, and the opposite answers
    rule the circle out. A yes-or-no question must name exactly one colour or shape.
    """
    possible = {"colour": set(PALETTE), "shape": set(SHAPES)}
    for question, answer in asked:
        words = re.findall(r"[a-z]+", question.lower())
        named = [word for word in words if word in PALETTE or word in SHAPES]
        if answer in ("yes", "no"):
            if len(named) != 1:
                raise ValueError(f"not one colour or shape in the question {question!r}")
            negated = "not" in words or "no" in words
            told, holds = named, (answer == "yes") != negated
        else:
            told, holds = [*named, answer], True
        for word in told:
            kind = "colour" if word in PALETTE else "shape"
            possible[kind] = possible[kind] & {word} if holds else possible[kind] - {word}
    return possible["colour"], possible["shape"]


def caption_of(asked: Iterable[tuple[str, str]], image: bytes) -> str:
    """Describe an encoded image: by its questions' truth, else by its pixels."""
    colours, shapes = stated_truth(asked)
    if len(colours) == 1 and len(shapes) == 1:
        return f"a {colours.pop()} {shapes.pop()}"
    seen = judge_shape(np.asarray(open_image(image)))
    if seen is None:
        raise UserError(f"an easy-VQA image shows no shape; {AGAIN}")
    colour = colours.pop() if len(colours) == 1 else seen[0]
    shape = shapes.pop() if len(shapes) == 1 else seen[1]
    return f"a {colour} {shape}"
