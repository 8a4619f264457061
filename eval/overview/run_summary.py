"""The numbers of a recipe's run: `summary.json` with flat keys, and their table."""

from collections.abc import Mapping
from typing import Any

from eval.reports.page import MARKS, Bar, Section

QUESTION_ONLY = ("vqa.question_only_baseline", "question only")
OPEN_QUESTION_ONLY = ("vqa.open_question_only_baseline", "question only")
MEAN_IMAGE = ("reconstruction.mean_image_psnr", "mean image")
MEAN_IMAGE_POOLED = ("reconstruction.mean_image_psnr_pooled", "mean image")
CHANCE = ("drawing.chance", "chance")
NUM_IMAGES = "reconstruction.num_images"
NONE = ("", "")
NUMBERS = (
    ("Questions answered right", "vqa.accuracy", "%", QUESTION_ONLY, "vqa.num_questions"),
    ("… open ones", "vqa.open_accuracy", "%", OPEN_QUESTION_ONLY, ""),
    ("… yes/no", "vqa.yes_no_accuracy", "%", NONE, ""),
    ("PSNR, mean over images", "reconstruction.psnr", "dB", MEAN_IMAGE, NUM_IMAGES),
    ("PSNR, of the pooled error", "reconstruction.psnr_pooled", "dB", MEAN_IMAGE_POOLED, ""),
    ("SSIM", "reconstruction.ssim", "", NONE, ""),
    ("Semantic codes in use", "codebook.semantic_usage", "%", NONE, ""),
    ("Pixel codes in use", "codebook.pixel_usage", "%", NONE, ""),
    ("… under semantic codes in use", "codebook.pixel_usage_within_used", "%", NONE, ""),
    ("Drawings right", "drawing.accuracy", "%", CHANCE, "drawing.num_drawings"),
    ("… by their first candidate", "drawing.first_candidate_accuracy", "%", CHANCE, ""),
    ("… in colour", "drawing.colour_accuracy", "%", NONE, ""),
    ("… in shape", "drawing.shape_accuracy", "%", NONE, ""),
    ("Duration", "seconds", "min", NONE, ""),
    ("Peak memory", "peak_memory_gb", "GB", NONE, ""),
)
"""Lines of the table: name, key of `flat_summary`, unit, (key, name) of what it is worth comparing
with, key of how many it was measured on."""


def flat_summary(
    parts: Mapping[str, Mapping[str, Any]], seconds: float | None, peak_memory_gb: float | None
) -> dict[str, Any]:
    """Plain keys for a run's `summary.json`; what was not measured is None.

    Args:
        parts: the summaries of `reconstruction`, `vqa` and `generation` that are there.
        seconds: duration of the whole run.
        peak_memory_gb: most memory that the run held, in GiB.
    """
    kinds = ("reconstruction", "vqa", "generation")
    reconstruction, vqa, drawing = (parts.get(kind, {}) for kind in kinds)
    codebook = reconstruction.get("codebook", {})

    def with_interval(prefix: str, found: Mapping[str, Any]) -> dict[str, float | None]:
        low, high = found.get("interval") or (None, None)
        return {prefix: found.get("accuracy"), f"{prefix}_low": low, f"{prefix}_high": high}

    def keys(prefix: str, found: Mapping[str, Any], names: str) -> dict[str, Any]:
        return {f"{prefix}.{name}": found.get(name) for name in names.split()}

    psnr = "psnr psnr_pooled mean_image_psnr mean_image_psnr_pooled ssim num_images resolution"
    pixel_codes = "pixel_usage pixel_usage_within_used pixel_perplexity"
    drawings = "first_candidate_accuracy colour_accuracy shape_accuracy chance num_drawings"
    return {
        "seconds": seconds,
        "peak_memory_gb": peak_memory_gb,
        **with_interval("vqa.accuracy", vqa.get("overall", {})),
        **with_interval("vqa.open_accuracy", vqa.get("open", {})),
        "vqa.yes_no_accuracy": vqa.get("yes_no", {}).get("accuracy"),
        **keys("vqa", vqa, "yes_no_share question_only_baseline open_question_only_baseline"),
        **keys("vqa", vqa, "always_yes_baseline num_questions"),
        **keys("reconstruction", reconstruction, psnr),
        **keys("codebook", codebook, f"semantic_usage semantic_perplexity {pixel_codes}"),
        **with_interval("drawing.accuracy", drawing),
        **keys("drawing", drawing, drawings),
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
    for name, key, unit, (baseline_key, baseline_name), count_key in NUMBERS:
        value, baseline = summary.get(key), summary.get(baseline_key)
        if value is None:
            continue
        low = summary.get(f"{key}_low")
        wanted = [
            f"{sign} {_shown(bounds[key], unit, 'g')} {MARKS[is_met(bounds[key])]}"
            for sign, bounds, is_met in (("≥", targets, value.__ge__), ("≤", limits, value.__le__))
            if key in bounds
        ]
        rows.append(
            (
                name,
                _shown(value, unit),
                Bar(value, baseline) if unit == "%" else "",
                "–" if low is None else f"{100 * low:.1f} – {100 * summary[f'{key}_high']:.1f} %",
                "–" if baseline is None else f"{_shown(baseline, unit)} {baseline_name}",
                ", ".join(wanted) or "–",
                f"{summary[count_key]:,} {count_key.rpartition('num_')[2]}" if count_key else "",
            )
        )
    note = (
        "Intervals are Wilson's, at 95 %; they take the trials as independent, which several "
        "questions about one image are not quite. The upright line in a bar is the baseline."
    )
    header = ("Measure", "Result", "", "95 % interval", "Baseline", "Target", "Measured on")
    return Section("Numbers", header=header, rows=rows, note=note)


def _shown(value: float, unit: str, precision: str = "") -> str:
    """A value for the reader; a perfect score alone is written without decimals."""
    scale, usual = {"%": (100, ".1f"), "min": (1 / 60, ".1f"), "": (1, ".3f")}.get(unit, (1, ".2f"))
    if unit == "%" and value == 1:
        precision = "g"
    return f"{scale * value:{precision or usual}} {unit}".rstrip()
