"""Questions with lettered options: SEED-Bench and MMBench (MMMU has a file of its own)."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from string import ascii_uppercase
from typing import Any

from eval.vqa.scorers.task import BenchmarkQuestion, Judged, Task

BY_LETTER = "Answer with the option's letter from the given choices directly."
LETTERS = ascii_uppercase

# Spellings of an option that MMBench's matching knows, around its letter, in its order.
_DRESS = (
    ("", ""), ("", "."), ("", ","), ("", ":"), ("", ")"), ("", ")."), ("(", ")"), ("(", ")."),
    (":", ""), (":", ","), (":", "."), (":", ")"), (":", ")."),
)  # fmt: skip
_MMBENCH_LETTERS = "ABCDE"


def judge_first_letter(question: BenchmarkQuestion, prediction: str) -> tuple[str, float]:
    """SEED-Bench as it is scored on generated answers: the first character, whatever its case."""
    letter = prediction.strip()[:1].upper()
    read = letter if letter in LETTERS[: len(question.options)] else ""
    return read, float(bool(read) and read == question.answers[0])


def mmbench_option(prediction: str, options: Sequence[str]) -> str:
    """The option that MMBench's own matching finds in an answer without the help of GPT, or "".

    One letter out of A to E as a word of its own, bare or with a bracket, period, comma or colon; a
    bare "A" among more than three words is an article. Else the one option whose text stands in the
    answer, whatever its case.
    """
    words = [word.strip() for word in prediction.split()]
    for before, after in _DRESS:
        found = [x for x in _MMBENCH_LETTERS if before + x + after in words]
        article = not before and not after and "A" in words and len(words) > 3
        if len(found) == 1 and not article:
            return found[0]
    answer = prediction.lower()
    named = [x for x, text in zip(LETTERS, options, strict=False) if text.lower() in answer]
    return named[0] if len(named) == 1 else ""


def judge_mmbench(question: BenchmarkQuestion, prediction: str) -> tuple[str, float]:
    """Whether the option that is found in the answer is the right one."""
    read = mmbench_option(prediction, question.options)
    return read, float(bool(read) and read == question.answers[0])


def circular_figures(judged: Sequence[Judged]) -> dict[str, Any]:
    """MMBench's circular accuracy: an item counts where every rotation of its options is right.

    Items of which the set holds one order alone count by that; `num_rotated_items` says how many
    have more.
    """
    items: dict[str, list[Judged]] = defaultdict(list)
    for entry in judged:
        items[entry.question.group or entry.question.question_id].append(entry)
    by_category: dict[str, list[bool]] = defaultdict(list)
    for entries in items.values():
        is_right = all(entry.score == 1 for entry in entries)
        by_category[entries[0].question.category].append(is_right)
    return {
        "circular_accuracy": sum(map(sum, by_category.values())) / len(items),
        "num_items": len(items),
        "num_rotated_items": sum(len(entries) > 1 for entries in items.values()),
        "circular_by_category": {
            name: sum(outcomes) / len(outcomes) for name, outcomes in sorted(by_category.items())
        },
    }


def rotations(question: BenchmarkQuestion) -> list[BenchmarkQuestion]:
    """The question once for each cyclic shift of its options, as MMBench's circular files hold it.

    Shift k has the id of the question + k · 10⁶ where that is a number, and the answer's letter
    moves with its text.
    """
    key, options = question.question_id, question.options
    right = LETTERS.index(question.answers[0])
    return [
        replace(
            question,
            question_id=str(int(key) + shift * 10**6) if key.isdigit() else f"{key}+{shift}",
            group=question.group or key,
            options=options[shift:] + options[:shift],
            answers=(LETTERS[(right - shift) % len(options)],),
        )
        for shift in range(len(options))
    ]


def letter_complaint(question: BenchmarkQuestion) -> str | None:
    """Why a question cannot be scored by the letter of its option, or None."""
    allowed = LETTERS[: len(question.options)]
    if not 2 <= len(question.options) <= len(LETTERS):
        return f"has {len(question.options)} options"
    if len(question.answers) != 1 or question.answers[0] not in list(allowed):
        return f"has the answer {', '.join(question.answers)!r} where its options are {allowed}"
    return None


def _mmbench_complaint(question: BenchmarkQuestion) -> str | None:
    if len(question.options) > len(_MMBENCH_LETTERS):
        return f"has {len(question.options)} options where MMBench has at most 5"
    return letter_complaint(question)


SEED_BENCH = Task(
    name="seedbench",
    rule="SEED-Bench by the option's letter: the answer's first character",
    judge=judge_first_letter,
    complaint=letter_complaint,
    instruction=BY_LETTER,
)
MMBENCH = Task(
    name="mmbench",
    rule="MMBench: the one option named in the answer, by letter or text, without GPT's help; "
    "circular accuracy wants all rotations of an item right",
    judge=judge_mmbench,
    complaint=_mmbench_complaint,
    figures=circular_figures,
    instruction=BY_LETTER,
)
