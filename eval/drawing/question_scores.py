"""Scores of drawings by questions about them: DPG-Bench's tree and GenEval 2's Soft-TIFA.

Pure functions of a judge's answers, so that any judge's can be scored, and scored again.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

DPG_RULE = (
    "DPG-Bench: the mean of a picture's questions, each answered yes or no, whichever is likelier; "
    "a question whose parent is answered no scores zero; categories by the raw answers of a "
    "prompt's last picture, as the official script has it, and its first row is left out as there"
)
TIFA_RULE = (
    "GenEval 2, Soft-TIFA: probability of the expected answer; arithmetic mean over the questions "
    "of a prompt (AM) and geometric mean (GM), then over prompts"
)


def dpg_questions(rows: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """The questions of one prompt from its rows of `dpg_bench.csv`.

    Returns:
        `id`, `question`, `category` and `parents` (ids; 0, no parent, left out) of each, in order.

    Raises:
        KeyError, ValueError: where a row has not the columns of the file.
    """
    return [
        {
            "id": int(row["proposition_id"]),
            "question": row["question_natural_language"],
            "category": row["tuple"].split("(")[0].strip(),
            "parents": [p for p in map(int, row["dependency"].split(",")) if p != 0],
        }
        for row in rows
    ]


def tifa_questions(row: Mapping[str, Any]) -> tuple[list[tuple[str, str]], list[str]]:
    """The questions of one prompt from its line of `geneval2_data.jsonl`.

    Returns:
        Each question with its right answer, and the skill of each.

    Raises:
        TypeError, ValueError: where the line is not of the file.
    """
    asked = [(question, answer) for question, answer in row["vqa_list"]]
    skills = list(row.get("skills", ["question"] * len(asked)))
    if not asked or not all(isinstance(text, str) for pair in asked for text in pair):
        raise ValueError("vqa_list is no list of questions with their answers")
    if len(skills) != len(asked):
        raise ValueError(f"{len(asked)} questions and {len(skills)} skills")
    return asked, skills


def dpg_image_score(questions: Sequence[Mapping[str, Any]], answers: Mapping[int, float]) -> float:
    """The score of one picture.

    Args:
        questions: as of `dpg_questions`.
        answers: id to 1 for yes and 0 for no, or the probability of yes; below one half is no.

    Returns:
        In [0, 1]. A zeroed question counts as answered no for those that stand behind it.
    """
    scores = dict(answers)
    for question in questions:
        # A parent whose row the file lacks, the skipped first one, cannot say no.
        if any(scores.get(parent, 1) < 0.5 for parent in question["parents"]):
            scores[question["id"]] = 0.0
    return float(np.mean([scores[question["id"]] for question in questions]))


def dpg_score(
    prompts: Sequence[tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[int, float]]]],
) -> dict[str, Any]:
    """The benchmark's score.

    Args:
        prompts: for each its questions, and the answers for each of its pictures.

    Returns:
        `accuracy` in [0, 1], its `interval` over prompts, and `by_task`: the categories, coarse and
        fine, each with `accuracy` and `num_questions`.
    """
    means = []
    categories: dict[str, list[float]] = defaultdict(list)
    for questions, pictures in prompts:
        means.append(float(np.mean([dpg_image_score(questions, found) for found in pictures])))
        for question in questions:
            raw = pictures[-1][question["id"]]
            fine = question["category"]
            for name in dict.fromkeys((fine.split("-")[0].strip(), fine)):
                categories[name].append(raw)
    whole = _over_prompts(means)
    return {
        "accuracy": whole["value"],
        "interval": whole["interval"],
        "num_prompts": len(means),
        "by_task": {
            name: {"accuracy": float(np.mean(found)), "interval": None, "num_questions": len(found)}
            for name, found in sorted(categories.items())
        },
    }


def soft_tifa(prompts: Sequence[tuple[Sequence[str], Sequence[float]]]) -> dict[str, Any]:
    """GenEval 2's scores.

    Args:
        prompts: for each the skills of its questions, and the probability of each right answer.

    Returns:
        `accuracy` (AM) and `geometric` (GM), each in [0, 1] with an interval, and `by_task`, the
        mean of each skill.
    """
    skills: dict[str, list[float]] = defaultdict(list)
    arithmetic, geometric = [], []
    for names, found in prompts:
        arithmetic.append(float(np.mean(found)))
        logs = np.log(np.maximum(found, 1e-12))  # one answer of probability zero makes it zero
        geometric.append(float(np.exp(logs.mean())))
        for name, probability in zip(names, found, strict=True):
            skills[name].append(probability)
    am, gm = _over_prompts(arithmetic), _over_prompts(geometric)
    return {
        "accuracy": am["value"],
        "interval": am["interval"],
        "geometric": gm,
        "num_prompts": len(arithmetic),
        "by_task": {
            name: {"accuracy": float(np.mean(found)), "interval": None, "num_questions": len(found)}
            for name, found in sorted(skills.items())
        },
    }


def _over_prompts(scores: Sequence[float]) -> dict[str, Any]:
    """The mean with its interval, which is cut where no score can be."""
    from eval.reconstruction.scores import mean_with_interval

    found = mean_with_interval(scores) | {"num_prompts": len(scores)}
    if found["interval"]:
        found["interval"] = [min(max(bound, 0.0), 1.0) for bound in found["interval"]]
    return found
