"""easy-VQA: exact match, with the form and topic of its questions."""

import re
from collections.abc import Sequence

from data_pipelines.sources.easy_vqa_shapes import PALETTE, SHAPES
from eval.vqa.scorers.task import BenchmarkQuestion, Task


def judge(question: BenchmarkQuestion, prediction: str) -> tuple[str, float]:
    """Equal to an accepted answer after lower case and strip; nothing else is forgiven."""
    compared = prediction.lower().strip()
    return compared, float(compared in {answer.lower().strip() for answer in question.answers})


def question_type(question: str, answers: Sequence[str]) -> str:
    """Form and topic of a question, such as "open, shape" or "yes/no with negation, color".

    Negation is told apart because it is what small models learn last: "is there not a circle?"
    turns the answer round by one word.
    """
    words = set(re.findall(r"[a-z']+", question.lower()))
    if answers[0].lower().strip() not in ("yes", "no"):
        form = "open"
    else:
        form = "yes/no with negation" if words & {"not", "no"} else "yes/no"
    # A yes/no question asks for the colour that it names; "what is the blue shape?" does not.
    if "color" in words or (form != "open" and words & set(PALETTE)):
        return f"{form}, color"
    return f"{form}, shape" if words & {"shape", *SHAPES} else f"{form}, other"


TASK = Task(
    name="easy-vqa",
    rule="exact match after lower case and strip (easy-VQA)",
    judge=judge,
)
