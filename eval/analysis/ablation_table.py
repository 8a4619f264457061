"""The table of an ablation: one row a variant, mean ± deviation over the seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Summaries = Mapping[str, Sequence[Mapping[str, Any]]]
"""Variant → the summaries of its seeds, as `eval.analysis.ablation.measure` gives them."""


def ablation_rows(summaries: Summaries, about: Mapping[str, str]) -> list[dict[str, Any]]:
    """One row a variant: sizes, what it is, and for each measure its mean, deviation and values."""
    rows = []
    for name, seeds in summaries.items():
        measures = {key: [seed[key] for seed in seeds] for key in ("psnr", "ssim", "usage")}
        for probe in seeds[0]["probes"]:
            measures[probe] = [seed["probes"][probe]["accuracy"] for seed in seeds]
        row: dict[str, Any] = {
            "variant": name,
            "about": about[name],
            "num_semantic_codes": seeds[0]["num_semantic_codes"],
            "num_pixel_codes": seeds[0]["num_pixel_codes"],
            "measures": {},
        }
        for key, values in measures.items():
            # A single value says nothing of the sample deviation.
            deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
            found = {"mean": float(np.mean(values)), "deviation": deviation, "values": values}
            row["measures"][key] = found
        rows.append(row)
    return rows


def ablation_markdown(
    rows: Sequence[Mapping[str, Any]], majorities: Mapping[str, float], facts: Sequence[str]
) -> str:
    """The table, what its variants are, what its columns mean, and further facts about the run.

    `majorities` has the accuracy of always saying the most frequent class of each probe.
    """
    probes = [key for key in rows[0]["measures"] if "." in key]
    heads = ["variant", "K × M", "PSNR, dB", "SSIM"]
    heads += [" on ".join(probe.rsplit(".", 1)) for probe in probes] + ["usage"]
    lines = ["# Ablation", "", _line(heads), _line(["---"] * len(heads))]
    for row in rows:
        cells = [row["variant"], f"{row['num_semantic_codes']:,} × {row['num_pixel_codes']:,}"]
        cells += [_cell(key, row["measures"][key]) for key in ("psnr", "ssim", *probes, "usage")]
        lines.append(_line(cells))
    lines += ["", "## Variants", ""]
    lines += [f"- **{row['variant']}**: {row['about']}" for row in rows]
    lines += ["", "## Columns", ""]
    lines += [
        "- PSNR, SSIM: mean over the test images of each image's own, 8-bit RGB levels.",
        "- A probe is a logistic regression on the mean of an image's code vectors, semantic or",
        "  joint (semantic and pixel side by side), fitted on the training images and scored on",
        "  the test images. Always the most frequent class: "
        + ", ".join(f"{name} {fraction:.1%}" for name, fraction in majorities.items())
        + ".",
        "- Usage: how many of the K·M image codes occur in the test images.",
        "- ±: sample deviation over the seeds.",
    ]
    lines += [f"- {fact}" for fact in facts]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(key: str, measure: Mapping[str, Any]) -> str:
    """PSNR and SSIM as they are; usage and the accuracies of probes in percent."""
    digits = {"psnr": 2, "ssim": 4}.get(key, 1)
    scale, unit = (1, "") if key in ("psnr", "ssim") else (100, " %")
    text = f"{scale * measure['mean']:.{digits}f}"
    if measure["deviation"] is not None:
        text += f" ± {scale * measure['deviation']:.{digits}f}"
    return text + unit
