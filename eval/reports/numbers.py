"""The numbers of a run beside their baselines and targets, as table rows and as flat keys."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TARGETS: dict[str, dict[str, float]] = {
    "short": {
        "vqa.accuracy": 0.90,
        "vqa.open_accuracy": 0.95,
        "reconstruction.psnr": 26.0,
        "drawing.accuracy": 0.85,
    },
    "long": {
        "vqa.accuracy": 0.97,
        "vqa.open_accuracy": 0.99,
        "reconstruction.psnr": 29.0,
        "drawing.accuracy": 0.95,
    },
}
"""What the quickstart owes on easy-VQA's test split, by the name of its preset."""

LIMITS = {"short": {"seconds": 600.0, "peak_memory_gb": 4.0}, "long": {"seconds": 2400.0}}
"""What it may take on two CPU cores, installation not counted."""


@dataclass(frozen=True)
class NumberRow:
    """One line of the table; texts are ready to be shown, shares in [0, 1] draw the bar."""

    name: str
    value: str
    baseline: str = "–"
    interval: str = "–"
    target: str = "–"
    met: bool | None = None
    """Whether the target is met; None where there is none."""
    share: float | None = None
    """The value, where it is a proportion."""
    baseline_share: float | None = None
    """The baseline, where it is a proportion."""
    basis: str = ""
    """What was measured, on how many."""


def flat_summary(
    parts: Mapping[str, Mapping[str, Any] | None],
    seconds: float | None,
    peak_memory_gb: float | None,
) -> dict[str, Any]:
    """Plain keys for a run's `summary.json`; what was not measured is None.

    Args:
        parts: the summaries of `reconstruction`, `vqa` and `generation`, each None if missing.
        seconds: duration of the whole run.
        peak_memory_gb: most memory that the run held, in GiB.
    """
    reconstruction = parts.get("reconstruction") or {}
    vqa = parts.get("vqa") or {}
    drawing = parts.get("generation") or {}
    codebook = reconstruction.get("codebook", {})
    overall, open_, yes_no = (vqa.get(name, {}) for name in ("overall", "open", "yes_no"))

    def bounds(prefix: str, interval: list[float] | None) -> dict[str, float | None]:
        low, high = interval or (None, None)
        return {f"{prefix}_low": low, f"{prefix}_high": high}

    return {
        "seconds": seconds,
        "peak_memory_gb": peak_memory_gb,
        "vqa.accuracy": overall.get("accuracy"),
        **bounds("vqa.accuracy", overall.get("interval")),
        "vqa.open_accuracy": open_.get("accuracy"),
        **bounds("vqa.open_accuracy", open_.get("interval")),
        "vqa.yes_no_accuracy": yes_no.get("accuracy"),
        "vqa.yes_no_share": vqa.get("yes_no_share"),
        "vqa.question_only_baseline": vqa.get("question_only_baseline"),
        "vqa.open_question_only_baseline": vqa.get("open_question_only_baseline"),
        "vqa.always_yes_baseline": vqa.get("always_yes_baseline"),
        "vqa.num_questions": vqa.get("num_questions"),
        "reconstruction.psnr": reconstruction.get("psnr"),
        "reconstruction.psnr_pooled": reconstruction.get("psnr_pooled"),
        "reconstruction.mean_image_psnr": reconstruction.get("mean_image_psnr"),
        "reconstruction.mean_image_psnr_pooled": reconstruction.get("mean_image_psnr_pooled"),
        "reconstruction.ssim": reconstruction.get("ssim"),
        "reconstruction.num_images": reconstruction.get("num_images"),
        "reconstruction.resolution": reconstruction.get("resolution"),
        "codebook.semantic_usage": codebook.get("semantic_usage"),
        "codebook.semantic_perplexity": codebook.get("semantic_perplexity"),
        "codebook.pixel_usage": codebook.get("pixel_usage"),
        "codebook.pixel_usage_within_used": codebook.get("pixel_usage_within_used"),
        "codebook.pixel_perplexity": codebook.get("pixel_perplexity"),
        "drawing.accuracy": drawing.get("accuracy"),
        **bounds("drawing.accuracy", drawing.get("interval")),
        "drawing.first_candidate_accuracy": drawing.get("first_candidate_accuracy"),
        "drawing.colour_accuracy": drawing.get("colour_accuracy"),
        "drawing.shape_accuracy": drawing.get("shape_accuracy"),
        "drawing.chance": drawing.get("chance"),
        "drawing.num_drawings": drawing.get("num_drawings"),
    }


def number_rows(
    parts: Mapping[str, Mapping[str, Any] | None],
    seconds: float | None,
    peak_memory_gb: float | None,
    preset: str | None = "short",
) -> list[NumberRow]:
    """Lines of the table, for the parts that are there; arguments as `flat_summary`.

    Args:
        preset: whose targets and limits to hold the numbers against; None has none.
    """
    targets, limits = TARGETS.get(preset or "", {}), LIMITS.get(preset or "", {})
    rows: list[NumberRow] = []
    if vqa := parts.get("vqa"):
        rows += _vqa_rows(vqa, targets)
    if reconstruction := parts.get("reconstruction"):
        rows += _reconstruction_rows(reconstruction, targets)
    if drawing := parts.get("generation"):
        rows += _drawing_rows(drawing, targets)
    if seconds is not None:
        rows.append(_cost_row("Duration", seconds / 60, "min", limits.get("seconds", 0) / 60))
    if peak_memory_gb is not None:
        rows.append(_cost_row("Peak memory", peak_memory_gb, "GB", limits.get("peak_memory_gb", 0)))
    return rows


def percent(share: float) -> str:
    """A proportion for the reader; a perfect score alone is written without decimals."""
    return "100 %" if share == 1 else f"{100 * share:.1f} %"


def _vqa_rows(vqa: Mapping[str, Any], targets: Mapping[str, float]) -> list[NumberRow]:
    rows = []
    for name, group, key, baseline in (
        ("Questions answered right", "overall", "vqa.accuracy", vqa["question_only_baseline"]),
        ("Open questions", "open", "vqa.open_accuracy", vqa["open_question_only_baseline"]),
        ("Yes/no questions", "yes_no", "vqa.yes_no_accuracy", None),
    ):
        found = vqa[group]
        if found["accuracy"] is None:
            continue
        rows.append(
            _share_row(
                name,
                found["accuracy"],
                interval=found["interval"],
                baseline="–" if baseline is None else f"{percent(baseline)} question only",
                baseline_share=baseline,
                target=targets.get(key),
                basis=f"{found['num_questions']:,} questions",
            )
        )
    return rows


def _reconstruction_rows(
    reconstruction: Mapping[str, Any], targets: Mapping[str, float]
) -> list[NumberRow]:
    codebook = reconstruction["codebook"]
    size = reconstruction["resolution"]
    images = f"{reconstruction['num_images']:,} images, {size}×{size}"
    target = targets.get("reconstruction.psnr")
    num_semantic = codebook["num_semantic_codes"]
    num_all = num_semantic * codebook["num_pixel_codes"]
    return [
        _psnr_row("mean over images", reconstruction, "", target, images),
        _psnr_row("of the pooled error", reconstruction, "_pooled", target, images),
        NumberRow(
            "SSIM",
            f"{reconstruction['ssim']:.3f}",
            interval=f"spread {reconstruction['ssim_std']:.3f}",
            basis=images,
        ),
        _share_row(
            "Semantic codes in use",
            codebook["semantic_usage"],
            basis=f"of {num_semantic:,}; perplexity {codebook['semantic_perplexity']:,.0f}",
        ),
        _share_row(
            "Pixel codes in use",
            codebook["pixel_usage"],
            basis=f"of {num_all:,}; perplexity {codebook['pixel_perplexity']:,.0f}",
        ),
        _share_row(
            "… under semantic codes in use",
            codebook["pixel_usage_within_used"],
            basis=f"of {codebook['num_pixel_codes']:,} for each semantic code",
        ),
    ]


def _psnr_row(
    rule: str, reconstruction: Mapping[str, Any], suffix: str, target: float | None, basis: str
) -> NumberRow:
    psnr = reconstruction[f"psnr{suffix}"]
    spread = reconstruction.get(f"psnr{suffix}_std")  # a pooled error has none
    return NumberRow(
        f"PSNR, {rule}",
        f"{psnr:.2f} dB",
        baseline=f"{reconstruction[f'mean_image_psnr{suffix}']:.1f} dB mean image",
        interval="–" if spread is None else f"spread {spread:.2f} dB",
        target="–" if target is None else f"≥ {target:g} dB",
        met=None if target is None else psnr >= target,
        basis=basis,
    )


def _drawing_rows(drawing: Mapping[str, Any], targets: Mapping[str, float]) -> list[NumberRow]:
    basis = f"{drawing['num_drawings']:,} drawings, {drawing['num_prompts']} prompts"
    chance = drawing["chance"]
    return [
        _share_row(
            "Drawings right",
            drawing["accuracy"],
            interval=drawing["interval"],
            baseline=f"{percent(chance)} chance",
            baseline_share=chance,
            target=targets.get("drawing.accuracy"),
            basis=basis,
        ),
        _share_row(
            "… by their first candidate",
            drawing["first_candidate_accuracy"],
            baseline=f"{percent(chance)} chance",
            baseline_share=chance,
            basis=basis,
        ),
        *(
            _share_row(
                f"… in {part}",
                drawing[f"{part}_accuracy"],
                baseline=f"{percent(drawing[f'{part}_chance'])} chance",
                baseline_share=drawing[f"{part}_chance"],
                basis=basis,
            )
            for part in ("colour", "shape")
        ),
    ]


def _share_row(
    name: str,
    share: float,
    *,
    basis: str,
    interval: list[float] | None = None,
    baseline: str = "–",
    baseline_share: float | None = None,
    target: float | None = None,
) -> NumberRow:
    low, high = interval or (0.0, 0.0)
    return NumberRow(
        name,
        percent(share),
        baseline=baseline,
        interval=f"{100 * low:.1f} – {100 * high:.1f} %" if interval else "–",
        target="–" if target is None else f"≥ {100 * target:g} %",
        met=None if target is None else share >= target,
        share=share,
        baseline_share=baseline_share,
        basis=basis,
    )


def _cost_row(name: str, value: float, unit: str, limit: float) -> NumberRow:
    return NumberRow(
        name,
        f"{value:.1f} {unit}",
        target=f"≤ {limit:g} {unit}" if limit else "–",
        met=value <= limit if limit else None,
        basis="the whole run",
    )
