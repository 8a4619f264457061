"""easy-VQA: exact match, with the form and topic of its questions."""

import re
from collections.abc import Sequence

from data_pipelines.answers import comparable, most_frequent_answer
from data_pipelines.sources.easy_vqa_shapes import PALETTE, SHAPES
from eval.vqa.scorers.task import BenchmarkQuestion, Task


def judge(question: BenchmarkQuestion, prediction: str) -> tuple[str, float]:
    """Equal to an accepted answer but for case and outer space; nothing else is forgiven."""
    compared = comparable(prediction)
    return compared, float(compared in map(comparable, question.answers))


def is_yes_no(answers: Sequence[str]) -> bool:
    """Whether the most frequent of the accepted answers is yes or no."""
    return bool(answers) and comparable(most_frequent_answer(answers)) in ("yes", "no")


def question_type(question: str, answers: Sequence[str]) -> str:
    """Form and topic of a question, such as "open, shape" or "yes/no with negation, color".

    Negation is told apart because it is what small models learn last: "is there not a circle?"
    turns the answer round by one word.
    """
    words = set(re.findall(r"[a-z']+", question.lower()))
    if not is_yes_no(answers):
        form = "open"
    else:
        form = "yes/no with negation" if words & {"not", "no"} else "yes/no"
    # A yes/no question asks for the colour that it names; "what is the blue shape?" does not.
    if "color" in words or (form != "open" and words & set(PALETTE)):
        return f"{form}, color"
    return f"{form}, shape" if words & {"shape", *SHAPES} else f"{form}, other"


TASK = Task(name="easy-vqa", rule="exact match after lower case and strip (easy-VQA)", judge=judge)
