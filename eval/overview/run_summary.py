"""The numbers of a recipe's run: `summary.json` with flat keys, and their table."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eval.reports.page import MARKS, Bar, Section


@dataclass(frozen=True)
class Number:
    """One line of the table; keys are those of `flat_summary`."""

    name: str
    key: str
    unit: str = "%"
    baseline: str = ""
    """Key of what the number is worth comparing with."""
    baseline_name: str = ""
    count: str = ""
    """Key of how many it was measured on."""
    counted: str = ""


NUMBERS = (
    Number(
        "Questions answered right",
        "vqa.accuracy",
        baseline="vqa.question_only_baseline",
        baseline_name="question only",
        count="vqa.num_questions",
        counted="questions",
    ),
    Number(
        "… open ones",
        "vqa.open_accuracy",
        baseline="vqa.open_question_only_baseline",
        baseline_name="question only",
    ),
    Number("… yes/no", "vqa.yes_no_accuracy"),
    Number(
        "PSNR, mean over images",
        "reconstruction.psnr",
        "dB",
        "reconstruction.mean_image_psnr",
        "mean image",
        "reconstruction.num_images",
        "images",
    ),
    Number(
        "PSNR, of the pooled error",
        "reconstruction.psnr_pooled",
        "dB",
        "reconstruction.mean_image_psnr_pooled",
        "mean image",
    ),
    Number("SSIM", "reconstruction.ssim", ""),
    Number("Semantic codes in use", "codebook.semantic_usage"),
    Number("Pixel codes in use", "codebook.pixel_usage"),
    Number("… under semantic codes in use", "codebook.pixel_usage_within_used"),
    Number(
        "Drawings right",
        "drawing.accuracy",
        baseline="drawing.chance",
        baseline_name="chance",
        count="drawing.num_drawings",
        counted="drawings",
    ),
    Number(
        "… by their first candidate",
        "drawing.first_candidate_accuracy",
        baseline="drawing.chance",
        baseline_name="chance",
    ),
    Number("… in colour", "drawing.colour_accuracy"),
    Number("… in shape", "drawing.shape_accuracy"),
    Number("Duration", "seconds", "min"),
    Number("Peak memory", "peak_memory_gb", "GB"),
)


def flat_summary(
    parts: Mapping[str, Mapping[str, Any]],
    seconds: float | None,
    peak_memory_gb: float | None,
) -> dict[str, Any]:
    """Plain keys for a run's `summary.json`; what was not measured is None.

    Args:
        parts: the summaries of `reconstruction`, `vqa` and `generation` that are there.
        seconds: duration of the whole run.
        peak_memory_gb: most memory that the run held, in GiB.
    """
    reconstruction, vqa, drawing = (
        parts.get(name, {}) for name in ("reconstruction", "vqa", "generation")
    )
    codebook = reconstruction.get("codebook", {})
    overall, open_, yes_no = (vqa.get(name, {}) for name in ("overall", "open", "yes_no"))

    def with_interval(prefix: str, found: Mapping[str, Any]) -> dict[str, float | None]:
        low, high = found.get("interval") or (None, None)
        return {prefix: found.get("accuracy"), f"{prefix}_low": low, f"{prefix}_high": high}

    def keys(prefix: str, found: Mapping[str, Any], *names: str) -> dict[str, Any]:
        return {f"{prefix}.{name}": found.get(name) for name in names}

    return {
        "seconds": seconds,
        "peak_memory_gb": peak_memory_gb,
        **with_interval("vqa.accuracy", overall),
        **with_interval("vqa.open_accuracy", open_),
        "vqa.yes_no_accuracy": yes_no.get("accuracy"),
        **keys(
            "vqa",
            vqa,
            "yes_no_share",
            "question_only_baseline",
            "open_question_only_baseline",
            "always_yes_baseline",
            "num_questions",
        ),
        **keys(
            "reconstruction",
            reconstruction,
            "psnr",
            "psnr_pooled",
            "mean_image_psnr",
            "mean_image_psnr_pooled",
            "ssim",
            "num_images",
            "resolution",
        ),
        **keys(
            "codebook",
            codebook,
            "semantic_usage",
            "semantic_perplexity",
            "pixel_usage",
            "pixel_usage_within_used",
            "pixel_perplexity",
        ),
        **with_interval("drawing.accuracy", drawing),
        **keys(
            "drawing",
            drawing,
            "first_candidate_accuracy",
            "colour_accuracy",
            "shape_accuracy",
            "chance",
            "num_drawings",
        ),
    }


def number_table(
    summary: Mapping[str, Any], targets: Mapping[str, float], limits: Mapping[str, float]
) -> Section:
    """A row for each number that was measured.

    Args:
        summary: of `flat_summary`.
        targets: keys with the values that they should reach.
        limits: keys with the values that they should not exceed.
    """
    rows = []
    for number in NUMBERS:
        value = summary.get(number.key)
        if value is None:
            continue
        is_fraction, baseline = number.unit == "%", summary.get(number.baseline)
        low, high = (summary.get(f"{number.key}_{end}") for end in ("low", "high"))
        count = summary.get(number.count)
        rows.append(
            (
                number.name,
                _shown(value, number.unit),
                Bar(value, baseline) if is_fraction else "",
                "–" if low is None or high is None else f"{100 * low:.1f} – {100 * high:.1f} %",
                "–"
                if baseline is None
                else f"{_shown(baseline, number.unit)} {number.baseline_name}",
                _target(number, value, targets.get(number.key), limits.get(number.key)),
                "" if count is None else f"{count:,} {number.counted}",
            )
        )
    note = (
        "Intervals are Wilson's, at 95 %; they take the trials as independent, which several "
        "questions about one image are not quite. The upright line in a bar is the baseline."
    )
    header = ("Measure", "Result", "", "95 % interval", "Baseline", "Target", "Measured on")
    return Section("Numbers", header=header, rows=rows, note=note)


def _shown(value: float, unit: str) -> str:
    """A value for the reader; a perfect score alone is written without decimals."""
    if unit == "%":
        return "100 %" if value == 1 else f"{100 * value:.1f} %"
    if unit == "min":
        return f"{value / 60:.1f} min"
    return f"{value:.2f} {unit}" if unit else f"{value:.3f}"


def _target(number: Number, value: float, target: float | None, limit: float | None) -> str:
    scale = {"%": 100, "min": 1 / 60}.get(number.unit, 1)
    parts = []
    if target is not None:
        parts.append(f"≥ {scale * target:g} {number.unit} {MARKS[value >= target]}")
    if limit is not None:
        parts.append(f"≤ {scale * limit:g} {number.unit} {MARKS[value <= limit]}")
    return ", ".join(parts) or "–"
