"""MMMU: options by letter, and open questions (Yue et al. 2024; official `eval_utils.py`)."""

import random
import re
from collections.abc import Sequence
from typing import Any

from eval.vqa.scorers.multiple_choice import BY_LETTER, LETTERS, letter_complaint
from eval.vqa.scorers.task import BenchmarkQuestion, Judged, Task

_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),  # 1,000
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),  # 1e3
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),  # 1000, .5
)
_KEYS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")


def option_in(response: str, options: Sequence[str]) -> str:
    """The option that the official parser finds in an answer, or ""; the script then guesses.

    Looked for in turn, each only where the one before finds nothing: "(B)", "B ", "B.", and in
    answers of more than five words the text of an option. Of several the last one counts.
    """
    for mark in ",.!?;:'":
        response = response.strip(mark)
    response = f" {response} "
    letters = LETTERS[: len(options)]
    places = [(f"({x})", f"({x})") for x in letters], [(f"{x} ", f" {x} ") for x in letters]
    for spellings in (*places, [(f"{x}.", f" {x} ") for x in letters]):
        found = [
            (response.rfind(where), -i)
            for i, (sign, where) in enumerate(spellings)
            if sign in response
        ]
        if found:
            return letters[-max(found)[1]]
    if len(response.split()) > 5:
        lower = response.lower()
        named = [(lower.rfind(o.lower()), -i) for i, o in enumerate(options) if o.lower() in lower]
        if named:
            return letters[-max(named)[1]]
    return ""


def normal_forms(text: str) -> list[str | float]:
    """A number rounded to two places, or lower case; a single letter only beside a space."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        lower = text.lower()
        return [f" {lower}", f"{lower} "] if len(lower) == 1 else [lower]


def open_candidates(response: str) -> list[str | float]:
    """What an open answer may mean: what follows "is", "so", "answer" ..., and every number."""
    response = response.strip().strip(".").lower()
    parts = re.split(r"\.\s(?=[A-Z])|\n", response)
    keys: list[str] = []
    for index, part in enumerate(parts):
        signs = (*_KEYS, "=") if index == len(parts) - 1 else _KEYS
        tails = [part.split(sign)[-1].strip() for sign in signs if sign in part]
        # The shortest tail; an empty one gives way to whatever comes after it.
        shortest = ""
        for tail in tails:
            if not shortest or len(tail) < len(shortest):
                shortest = tail
        if shortest and shortest not in list(":,.!?;'"):
            keys.append(shortest)
    keys = keys or [response]
    numbers = [n for key in keys for pattern in _NUMBERS for n in pattern.findall(key)]
    return [form for text in keys + numbers for form in normal_forms(text)]


def judge(question: BenchmarkQuestion, prediction: str) -> tuple[str, float]:
    """Score one answer: by its option, or, where there are none, by what an open answer holds."""
    if question.options:
        read = option_in(prediction, question.options)
        return read, float(bool(read) and read == question.answers[0])
    wanted = [form for answer in question.answers for form in normal_forms(answer)]
    right = any(
        any(isinstance(w, str) and w in candidate for w in wanted)
        if isinstance(candidate, str)
        else candidate in wanted
        for candidate in open_candidates(prediction)
    )
    return prediction.strip(), float(right)


def figures(judged: Sequence[Judged]) -> dict[str, Any]:
    """The accuracy if answers without an option were guessed, as officially done."""
    choices = [entry for entry in judged if entry.question.options]
    guessed = sum(
        random_letter(entry.question) == entry.question.answers[0]
        for entry in choices
        if not entry.read_as
    )
    total = sum(entry.score for entry in judged)
    return {
        "accuracy_with_guesses": (total + guessed) / len(judged),
        "num_open_questions": len(judged) - len(choices),
    }


def random_letter(question: BenchmarkQuestion, seed: int = 42) -> str:
    """A guess that depends on the question alone."""
    letters = LETTERS[: len(question.options)]
    return random.Random(f"{seed} {question.question_id}").choice(letters)


def _complaint(question: BenchmarkQuestion) -> str | None:
    return letter_complaint(question) if question.options else None


TASK = Task(
    name="mmmu",
    rule="MMMU (eval_utils.py): the last option named in the answer; answers without one are "
    "wrong, where the official script guesses; open questions by their numbers or text",
    judge=judge,
    complaint=_complaint,
    figures=figures,
    instruction=BY_LETTER,
    max_new_tokens=64,
)
