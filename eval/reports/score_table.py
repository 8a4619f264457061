"""The table of a summary's scores."""

from collections.abc import Mapping
from typing import Any

from eval.reports.page import Section

COUNTS = {
    "num_questions": "questions",
    "num_drawings": "drawings",
    "num_images": "images",
    "num_prompts": "prompts",
}
"""What a score is measured on, and what that is called."""


def score_table(scores: Mapping[str, Mapping[str, Any]], title: str = "Scores") -> Section:
    """A row for each score: `value`, and where it has them `interval`, `std` and a count."""
    rows = [
        (name, f"{score['value']:.4g}", _uncertainty(score), _measured_on(score))
        for name, score in scores.items()
    ]
    return Section(title, header=("Measure", "Result", "95 % interval", "Measured on"), rows=rows)


def _uncertainty(score: Mapping[str, Any]) -> str:
    """The interval of a score, or of a kernel distance its spread and what that is over."""
    if interval := score.get("interval"):
        return f"{interval[0]:.4g} to {interval[1]:.4g}"
    subsets = str(score.get("rule", "")).partition(";")[0]
    if score.get("std") is not None:
        return f"spread {score['std']:.3g}" + (f" over {subsets}" if subsets else "")
    return subsets or "–"


def _measured_on(score: Mapping[str, Any]) -> str:
    for key, what in COUNTS.items():
        if number := score.get(key):
            numbers = number if isinstance(number, list) else [number]
            cut = f", {score['num_cut']:,} prompts cut" if score.get("num_cut") else ""
            return f"{' and '.join(f'{n:,}' for n in numbers)} {what}{cut}"
    return "–"
