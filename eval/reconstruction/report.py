"""The report of `semhitok eval reconstruction`, from what it saved; the worst pair first."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from eval.reports.figures import Picture, code_frequencies, code_map
from eval.reports.page import Card, Report, Section, absent, score_table
from runtime.files import read_json
from runtime.json_lines import read_rows

NOT_SETTINGS = ("scores", "codebook", "psnr", "ssim", "psnr_std", "ssim_std", "psnr_pooled")
MAPS_NOTE = (
    "One square of a map is one image position, one colour is one code. A semantic code has the "
    "same colour in all maps. A pixel code is local to its semantic code, so two equal colours in "
    "a pixel map mean the same code only where the semantic map agrees too."
)

PUBLISHED = (
    ("Rosetta", 256, 0.33),
    ("UniTok", 256, 0.38),
    ("SemHiTok", 256, 1.16),
    ("TokenFlow", 256, 1.37),
    ("VILA-U", 256, 1.80),
    ("Rosetta", 384, 0.17),
    ("SemHiTok", 384, 0.66),
)
"""Model, resolution and rFID on all of ImageNet-1k's validation set, by arXiv 2503.06764."""
NUM_IMAGENET = 50_000


def report_reconstruction(folder: Path) -> Report:
    """The report of the evaluation in a folder."""
    summary = read_json(folder / "summary.json")
    codes = dict(np.load(folder / "codes.npz")) if (folder / "codes.npz").is_file() else {}
    rules = f"PSNR: {summary['psnr_rule']}. SSIM: {summary['ssim_rule']}."
    pairs = Section(
        "Real beside reconstruction",
        "The worst of all, then some evenly spaced over the set.",
        cards=_pairs(folder, codes),
        note=f"{MAPS_NOTE} {rules} Crop: {summary['crop']}. Decoded by the {summary['decoder']}.",
    )
    return Report(
        "Reconstruction",
        f"{summary['num_images']:,} images at {summary['resolution']}² through their codes and "
        f"back; the mean image, which sees nothing, gives {summary['mean_image_psnr']:.2f} dB.",
        [
            score_table(summary["scores"]),
            _codebooks(summary["codebook"], codes),
            published_table(summary),
            pairs,
        ],
        {key: value for key, value in summary.items() if key not in NOT_SETTINGS},
    )


def published_table(summary: Mapping[str, Any]) -> Section:
    """Published rFID, and this run's, or what keeps it out of their column.

    A distance on 1,000 small pictures tells nothing about one on ImageNet.
    """
    rows = [(model, f"{resolution}²", f"{value:.2f}") for model, resolution, value in PUBLISHED]
    differs = differences_to_published(summary)
    own = f"not comparable: {'; '.join(differs)}"
    if not differs:
        own = f"{summary['scores']['FID']['value']:.2f}"
    rows.append(("this run", f"{summary['resolution']}²", own))
    note = (
        f"rFID on {NUM_IMAGENET:,} images of ImageNet-1k validation. Source: SemHiTok (arXiv "
        "2503.06764), tables of reconstruction; rivals as it quotes them."
    )
    header = ("Model", "Resolution", "rFID")
    return Section("Among published results", header=header, rows=rows, note=note)


def differences_to_published(summary: Mapping[str, Any]) -> list[str]:
    """How a run differs from the way published rFID is measured; empty where it does not."""
    differs = []
    if "FID" not in summary["scores"]:
        named = next((name for name in summary.get("feature_networks", []) if name), "none")
        differs.append(f"feature network {named}, not Inception-v3")
    if summary["num_images"] != NUM_IMAGENET:
        differs.append(f"{summary['num_images']:,} images, not {NUM_IMAGENET:,}")
    if not summary["crop"].startswith("ADM"):
        differs.append("another crop than ADM's")
    if summary["resolution"] not in (256, 384):
        differs.append(f"{summary['resolution']}², not 256² or 384²")
    return differs


def _codebooks(codebook: Mapping[str, Any], codes: Mapping[str, np.ndarray]) -> Section:
    if not codes:
        return absent("Codebooks", "code counts", "codes.npz")
    usage, within = codebook["pixel_usage"], codebook["pixel_usage_within_used"]
    pixel = f"{usage:.1%} of all, {within:.1%} under semantic codes in use"
    semantic = f"{codebook['semantic_usage']:.1%}"
    perplexities = [f"{codebook[f'{half}_perplexity']:,.0f}" for half in ("semantic", "pixel")]
    rows = [
        (f"{codebook['num_semantic_codes']:,} semantic", semantic, perplexities[0]),
        (f"{codebook['num_pixel_codes']:,} pixel codes each", pixel, perplexities[1]),
    ]
    charts = {
        "Semantic codes": code_frequencies(codes["semantic_counts"], "frequencies-semantic"),
        "Pixel codes": code_frequencies(codes["pixel_counts"], "frequencies-pixel"),
    }
    note = (
        f"Codes in order of frequency, over {codebook['num_positions']:,} positions; the dotted "
        "line is the last code that occurs. Perplexity is the number of equally frequent codes "
        "that would be as hard to guess; once its semantic code is known, that of a pixel code is "
        f"{codebook['pixel_perplexity_given_semantic']:.2f} of {codebook['num_pixel_codes']}."
    )
    header = ("Codes", "In use", "Perplexity")
    return Section("Codebooks", header=header, rows=rows, charts=charts, note=note)


def _pairs(folder: Path, codes: Mapping[str, np.ndarray]) -> list[Card]:
    """A card for each saved pair, with its code maps where they are known, the worst first."""
    rows = [row for row in read_rows(folder / "per_image.jsonl") if {"worst", "pair"} & set(row)]
    cards = []
    for row in sorted(rows, key=lambda row: row["psnr"]):
        stem = f"{row['pair']:02d}" if "pair" in row else f"worst-{row['worst']:02d}"
        pictures: list[tuple[Path | Picture, str]] = [
            (folder / "pairs" / f"{stem}_real.png", "real"),
            (folder / "pairs" / f"{stem}_reconstruction.png", "through its codes"),
        ]
        if "pair" in row and codes:
            semantic, pixel = codes["semantic"][row["pair"]], codes["pixel"][row["pair"]]
            number = f"{len(np.unique(semantic))} semantic codes"
            pictures.append((code_map(semantic, codes["semantic_counts"]), number))
            pictures.append((code_map(pixel, codes["pixel_counts"].sum(axis=0)), "pixel codes"))
        note = f"{row['psnr']:.1f} dB, SSIM {row['ssim']:.2f}"
        cards.append(Card(row["record_id"], pictures, note=note))
    return cards
