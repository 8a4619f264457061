"""The table and the report of the input ablation, from what it saved."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.reports.page import Card, Report, Section
from runtime.files import read_json

AS_IT_IS = "as it is"
VARIANTS = {
    AS_IT_IS: "the codes of the image itself",
    "shuffled images": "the codes of another image of the set",
    "blank images": "the codes of an even grey image",
    "shuffled semantic codes": "semantic codes of another image, its own pixel codes",
    "shuffled pixel codes": "its own semantic codes, pixel codes of another image",
}
SCORES = {
    "vqa": "Questions right",
    "vqa_open": "Open questions right",
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "drawing": "Drawings right",
}
FRACTIONS = ("vqa", "vqa_open", "drawing")
SETTINGS = ("model", "checkpoint_fingerprint", "commit", "data", "data_fingerprint", "seed")
NUM_SHOWN = 6
"""Images whose decoded codes are shown."""
MARKS = {True: "\N{NO-BREAK SPACE}▼", False: "\N{NO-BREAK SPACE}!", None: ""}


def picture_name(number: int, variant: str) -> str:
    """File of an image's decoded codes."""
    return f"{number}_{variant.replace(' ', '-')}.png"


def ablation_section(summary: Mapping[str, Any]) -> Section:
    """One line a variant; ▼ marks what fell and had to, ! what had to and did not."""
    variants = summary["variants"]
    keys = [key for key in SCORES if key in variants[AS_IT_IS]]
    rows = []
    for name, scores in variants.items():
        fell = summary["verdicts"].get(name, {})
        cells = [_shown(key, scores[key]["value"]) + MARKS[fell.get(key)] for key in keys]
        rows.append((name, VARIANTS[name], *cells))
    header = ("Codes", "What the model gets", *(SCORES[key] for key in keys))
    note = (
        f"{summary['num_images']:,} images with {summary['num_questions']:,} questions, "
        f"{summary['num_drawings']:,} drawings judged by the easy-VQA rule. ▼ had to fall and lies "
        "below the 95 % interval of the model as it is; ! had to and does not."
    )
    return Section("Scores with corrupted codes", header=header, rows=rows, note=note)


def report_input_ablation(folder: Path) -> Report:
    """The report of the evaluation in a folder."""
    summary = read_json(folder / "summary.json")
    cards = [
        Card(
            f"image {number}",
            [(folder / "images" / picture_name(number, name), name) for name in VARIANTS],
        )
        for number in range(min(NUM_SHOWN, summary["num_images"]))
    ]
    lead = (
        "Every score that must fall does."
        if summary["as_they_must"]
        else "Some score stays where it must fall; the table marks it with an exclamation mark."
    )
    return Report(
        "Input ablation",
        f"Each score again, with the images taken away or half of their codes replaced. {lead}",
        [ablation_section(summary), Section("The decoded codes of each variant", cards=cards)],
        {key: summary[key] for key in SETTINGS},
    )


def _shown(key: str, value: float) -> str:
    return f"{value:.1%}" if key in FRACTIONS else f"{value:.3g}"
