"""MME: two questions an image, one "yes" and one "no" (Fu et al. 2023)."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from eval.vqa.scorers.task import SHORT_ANSWER, BenchmarkQuestion, Judged, Task

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark",
    "artwork", "OCR",
)  # fmt: skip
COGNITION = (
    "commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning",
)  # fmt: skip


def read_yes_no(prediction: str) -> str:
    """What the rule reads in an answer: "yes", "no", or "other", which is always wrong.

    Lower case, stripped, without periods: yes, no, y or n; else "yes", then "no", is looked for in
    the first four characters. So "not sure" and "note" are a no, and "I say yes" is "other".
    """
    text = prediction.lower().strip().replace(".", "")
    found = (word for word in ("yes", "no") if word in text[:4] or word[0] == text)
    return next(found, "other")


def judge(question: BenchmarkQuestion, prediction: str) -> tuple[str, float]:
    """Whether the answer says what the label does."""
    said = read_yes_no(prediction)
    return said, float(said == _label(question))


def figures(judged: Sequence[Judged]) -> dict[str, Any]:
    """For each category accuracy, accuracy⁺ (both questions of an image right) and their sum × 100.

    Perception adds up ten categories (at most 2,000) and cognition four (at most 800); a sum is
    None unless all of its categories are there.
    """
    images: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for entry in judged:
        images[entry.question.category][entry.question.group].append(entry.score)
    by_category: dict[str, dict[str, float]] = {}
    for category, pairs in sorted(images.items()):
        scores = [score for pair in pairs.values() for score in pair]
        found = {"accuracy": sum(scores) / len(scores)}
        found["accuracy_plus"] = sum(sum(pair) == 2 for pair in pairs.values()) / len(pairs)
        found["score"] = 100 * found["accuracy"] + 100 * found["accuracy_plus"]
        by_category[category] = found | {"num_images": len(pairs)}
    sums: dict[str, Any] = {}
    for name, categories in (("perception", PERCEPTION), ("cognition", COGNITION)):
        missing = [category for category in categories if category not in by_category]
        scores = [by_category[c]["score"] for c in categories if c in by_category]
        sums[name] = sum(scores) if not missing else None
        sums[f"{name}_categories_missing"] = missing
    return {**sums, "by_category": by_category}


def _label(question: BenchmarkQuestion) -> str:
    return question.answers[0].lower().strip().replace(".", "")


def _complaint(question: BenchmarkQuestion) -> str | None:
    if len(question.answers) == 1 and _label(question) in ("yes", "no"):
        return None
    return f'has the answer {", ".join(question.answers)!r} where MME has "Yes" or "No"'


def _pairs(questions: Sequence[BenchmarkQuestion]) -> str | None:
    """MME's accuracy⁺ is defined on pairs alone."""
    asked: dict[tuple[str, str], int] = defaultdict(int)
    for question in questions:
        asked[question.category, question.group] += 1
    for (category, group), number in asked.items():
        if number != 2:
            return f"image {group!r} of {category!r} has {number} questions where MME has 2"
    return None


TASK = Task(
    name="mme",
    rule="MME: yes or no in the first four characters; accuracy × 100 + accuracy⁺ × 100 for each "
    "category, accuracy⁺ wants both questions of an image right",
    judge=judge,
    is_unread=lambda entry: entry.read_as == "other",
    complaint=_complaint,
    check_set=_pairs,
    figures=figures,
    instruction=SHORT_ANSWER,
)
