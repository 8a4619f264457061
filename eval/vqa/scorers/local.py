"""Rules for questions of one's own: exact, soft and by option."""

import re
from collections.abc import Sequence

from data_pipelines.answers import comparable
from eval.vqa.scorers import easy_vqa, vqav2
from eval.vqa.scorers.multiple_choice import BY_LETTER, LETTERS, letter_complaint
from eval.vqa.scorers.task import BenchmarkQuestion, Task
from eval.vqa.scorers.vqa_text import ten_answers

_LEAD = re.compile(
    r"(so |thus |therefore )?"
    r"((the |my )?(correct |right |best )?(answer|option|choice)( is)?|it is|it's)"
    r"\s*:?\s*(option |choice )?"
)
_LETTER = re.compile(r"[(\[]?([a-z])([)\]][.:,]?|[.:,]|$)(\s+(?P<rest>.*)|$)", re.DOTALL)
_IS_RIGHT = re.compile(r"([a-z]) is (the )?(correct|right)\b.*", re.DOTALL)
_BRACKETED = re.compile(r"\(([a-z])\)")


def named_option(prediction: str, options: Sequence[str]) -> str:
    """The option that an answer names plainly.

    Looked for in turn, also behind "The answer is" and its like: the whole text of an option; a
    letter at the start with nothing, a bracket, a period, a comma or a colon behind it ("B", "(B)",
    "B. dog"), or "is correct"; one single letter in brackets. Case and asterisks do not matter.

    Returns:
        The letter, or "" where none is named, or two: "(A) or (B)", "A. dog" where dog is B.
    """
    said = comparable(prediction.replace("*", "")).removesuffix(".").strip()
    said = said[lead.end() :] if (lead := _LEAD.match(said)) else said
    texts = [comparable(option).removesuffix(".") for option in options]
    letters = list(LETTERS[: len(options)].lower())
    if texts.count(said) == 1 and said not in letters:
        return LETTERS[texts.index(said)]
    bracketed = {letter for letter in _BRACKETED.findall(said) if letter in letters}
    if len(bracketed) > 1:
        return ""
    found = _LETTER.fullmatch(said) or _IS_RIGHT.fullmatch(said)
    if found and found[1] in letters:
        rest = found.groupdict().get("rest")
        other = named_option(rest, options) if rest else ""
        return found[1].upper() if other in ("", found[1].upper()) else ""
    return bracketed.pop().upper() if bracketed else ""


def judge_option(question: BenchmarkQuestion, prediction: str) -> tuple[str, float]:
    """Whether the option that the answer names is the right one."""
    read = named_option(prediction, question.options)
    return read, float(bool(read) and read == question.answers[0])


EXACT = Task(
    name="exact",
    rule="exact match with an accepted answer after lower case and strip",
    judge=easy_vqa.judge,
)
SOFT = Task(
    name="soft",
    rule="soft accuracy against ten annotators, by the rule of VQAv2",
    judge=vqav2.judge,
    complaint=lambda question: ten_answers(question.answers),
)
OPTION = Task(
    name="option",
    rule="the answer names the right option by its letter (B, (B), B. dog, The answer is B) or its "
    "whole text; an answer that names none, or two, is unread and counts as wrong",
    judge=judge_option,
    complaint=letter_complaint,
    instruction=BY_LETTER,
)
