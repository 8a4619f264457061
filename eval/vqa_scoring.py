"""Scores answers to visual questions by the easy-VQA rule, and the baselines beside them.

A row is one question as `mllm.ask.answer_records` gives it: a dict with `question_id`, `record_id`,
`question`, `answers` (the accepted ones) and `prediction`. Nothing here needs a model, so saved
predictions, also those of another system, can be scored again.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from data_pipelines.easy_vqa_shapes import PALETTE, SHAPES
from eval.intervals import wilson_interval

RULE = "exact match after lower case and strip (easy-VQA)"

Row = Mapping[str, Any]


def normalize_answer(answer: str) -> str:
    """The easy-VQA rule: lower case, no space around; nothing else is forgiven."""
    return answer.lower().strip()


def is_correct(row: Row) -> bool:
    """Whether the prediction equals one of the accepted answers."""
    return normalize_answer(row["prediction"]) in {normalize_answer(a) for a in row["answers"]}


def is_yes_no(answers: Sequence[str]) -> bool:
    """Whether this is a yes/no question, judged by its first accepted answer."""
    return normalize_answer(answers[0]) in ("yes", "no")


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


def score(rows: Sequence[Row]) -> dict[str, Any]:
    """Accuracy over all rows, over open and yes/no questions, and for each question type.

    Returns:
        `overall`, `open`, `yes_no` and each entry of `by_type` as `proportion` gives them, and
        `yes_no_share` in [0, 1].

    Raises:
        ValueError: if there is no row, or a question id occurs twice.
    """
    if not rows:
        raise ValueError("There are no answers to score.")
    repeated = [key for key, n in Counter(row["question_id"] for row in rows).items() if n > 1]
    if repeated:
        raise ValueError(f"Question {repeated[0]!r} was answered more than once.")

    by_type: dict[str, list[bool]] = defaultdict(list)
    by_form: dict[str, list[bool]] = {"open": [], "yes_no": []}
    for row in rows:
        correct = is_correct(row)
        by_type[question_type(row["question"], row["answers"])].append(correct)
        by_form["yes_no" if is_yes_no(row["answers"]) else "open"].append(correct)
    return {
        "overall": proportion(by_form["open"] + by_form["yes_no"]),
        "open": proportion(by_form["open"]),
        "yes_no": proportion(by_form["yes_no"]),
        "yes_no_share": len(by_form["yes_no"]) / len(rows),
        "by_type": {name: proportion(by_type[name]) for name in sorted(by_type)},
    }


def proportion(outcomes: Sequence[bool]) -> dict[str, Any]:
    """How many outcomes are true.

    Returns:
        `accuracy` in [0, 1], its Wilson 95 % `interval`, `num_correct` and `num_questions`;
        accuracy and interval are None where there is no question.
    """
    num_correct, num_total = sum(outcomes), len(outcomes)
    if not num_total:
        return {"accuracy": None, "interval": None, "num_correct": 0, "num_questions": 0}
    return {
        "accuracy": num_correct / num_total,
        "interval": list(wilson_interval(num_correct, num_total)),
        "num_correct": num_correct,
        "num_questions": num_total,
    }


def question_only_accuracy(
    rows: Sequence[Row], counted_on: Iterable[tuple[str, Sequence[str]]] | None = None
) -> float:
    """Accuracy of answering each question string with its most frequent answer, the image unseen.

    On the easy-VQA test split this is 67.0 % counted on the training split, as a model that cannot
    see could do it, and 67.8 % counted on the test split itself, which peeks at the answers and is
    therefore the upper bound of every such model.

    Args:
        rows: the questions to answer; predictions are not looked at.
        counted_on: (question, accepted answers) to count; None counts the rows themselves. A
            question that is not among them is answered with the most frequent answer of all.

    Returns:
        Accuracy in [0, 1].

    Raises:
        ValueError: if there is nothing to count.
    """
    if counted_on is None:
        counted_on = [(row["question"], row["answers"]) for row in rows]
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    overall: Counter[str] = Counter()
    for question, answers in counted_on:
        for answer in map(normalize_answer, answers):
            counts[normalize_answer(question)][answer] += 1
            overall[answer] += 1
    if not overall:
        raise ValueError("The question-only baseline has no questions to count.")

    num_correct = 0
    for row in rows:
        votes = counts.get(normalize_answer(row["question"]), overall)
        guess = votes.most_common(1)[0][0]
        num_correct += is_correct({"prediction": guess, "answers": row["answers"]})
    return num_correct / len(rows)


def always_yes_accuracy(rows: Sequence[Row]) -> float:
    """Accuracy of answering "yes" to everything, in [0, 1]."""
    num_correct = sum(is_correct({"prediction": "yes", "answers": row["answers"]}) for row in rows)
    return num_correct / len(rows)
