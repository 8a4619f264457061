"""The report of one evaluation: `report.html`, which stands alone, and `report.md` beside it.

What went wrong comes first: a reader who sees only the best pictures learns nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.reports.pages import flat_settings, saved_rows, templates

COUNTS = {
    "num_questions": "questions",
    "num_drawings": "drawings",
    "num_images": "images",
    "num_prompts": "prompts",
}
"""What a score is measured on, and what that is called."""

MAX_SHOWN = 48
"""Cards with pictures; the rest lies in the folder."""


@dataclass(frozen=True)
class Table:
    """A table as it is printed."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Card:
    """Pictures that belong together."""

    title: str
    """What was asked for, or which image it is."""
    pictures: Sequence[tuple[str, str]]
    """(path below the report's folder, caption)."""
    right: bool | None = None
    """None where there is no right and wrong."""
    note: str = ""


@dataclass(frozen=True)
class Report:
    """What a page shows, in its order."""

    title: str
    lead: str
    tables: Sequence[Table]
    cards: Sequence[Card] = ()
    """The failures first: `write_reports` keeps the order within right and wrong."""
    cards_title: str = "Pictures, failures first"
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What the numbers depend on."""


def write_reports(report: Report, folder: Path | str) -> Path:
    """Write both files into the folder that holds the pictures.

    Returns:
        The HTML page; it loads nothing from elsewhere.
    """
    from eval.reports.figures import picture
    from runtime.run_folder import write_text

    folder = Path(folder)
    cards = sorted(report.cards, key=lambda card: card.right is not False)[:MAX_SHOWN]
    shown = [
        {
            "title": card.title,
            "right": card.right,
            "note": card.note,
            "tiles": [
                {"uri": p.uri, "pixelated": p.pixelated, "caption": caption}
                for path, caption in card.pictures
                for p in [picture(folder / path)]
            ],
        }
        for card in cards
    ]
    settings = flat_settings(report.settings)
    page = (
        templates()
        .get_template("evaluation.html.j2")
        .render(
            title=report.title,
            lead=report.lead,
            tables=report.tables,
            shown=shown,
            pictures_title=report.cards_title,
            settings=settings,
        )
    )
    write_text(folder / "report.md", _markdown(report, cards, settings))
    return Path(write_text(folder / "report.html", page))


def score_table(scores: Mapping[str, Mapping[str, Any]], title: str = "Scores") -> Table:
    """The table of a summary's `scores`: `value`, and where they are there `interval`, `std`."""
    rows = []
    for name, found in scores.items():
        rows.append((name, f"{found['value']:.4g}", uncertainty(found), _measured_on(found)))
    return Table(title, ("Measure", "Result", "95 % interval", "Measured on"), rows)


def _measured_on(score: Mapping[str, Any]) -> str:
    for key, what in COUNTS.items():
        if number := score.get(key):
            numbers = number if isinstance(number, list) else [number]
            return f"{' and '.join(f'{n:,}' for n in numbers)} {what}"
    return "–"


def uncertainty(score: Mapping[str, Any]) -> str:
    """The interval of a score, or of a kernel distance its spread and what that is over."""
    if interval := score.get("interval"):
        return f"{interval[0]:.4g} to {interval[1]:.4g}"
    taken = str(score.get("rule", "")).partition(";")[0]
    if score.get("std") is not None:
        return f"spread {score['std']:.3g}" + (f" over {taken}" if taken else "")
    return taken or "–"


def report_reconstruction(folder: Path | str) -> Path:
    """The report of `semhitok eval reconstruction`, from what it saved; the worst pair first."""
    from eval.reports.published_results import reconstruction_table
    from runtime.run_folder import read_json

    folder = Path(folder)
    summary = read_json(folder / "summary.json")
    codebook = summary["codebook"]
    usage = Table(
        "Codebooks",
        ("Codes", "In use", "Perplexity"),
        [
            (
                f"{codebook['num_semantic_codes']:,} semantic",
                f"{codebook['semantic_usage']:.1%}",
                f"{codebook['semantic_perplexity']:,.0f}",
            ),
            (
                f"{codebook['num_pixel_codes']:,} pixel codes each",
                f"{codebook['pixel_usage']:.1%} of all, "
                f"{codebook['pixel_usage_within_used']:.1%} under semantic codes in use",
                f"{codebook['pixel_perplexity']:,.0f}",
            ),
        ],
    )
    rows = saved_rows(folder / "per_image.jsonl")
    files = {f"worst-{row['worst']:02d}": row for row in rows if "worst" in row}
    files |= {f"{row['pair']:02d}": row for row in rows if "pair" in row}
    cards = [
        Card(
            row["record_id"],
            [
                (f"pairs/{name}_real.png", "real"),
                (f"pairs/{name}_reconstruction.png", "through its codes"),
            ],
            note=f"{row['psnr']:.1f} dB, SSIM {row['ssim']:.2f}",
        )
        for name, row in sorted(files.items(), key=lambda entry: entry[1]["psnr"])
    ]
    left_out = ("scores", "codebook", "psnr", "ssim", "psnr_std", "ssim_std", "psnr_pooled")
    report = Report(
        "Reconstruction",
        f"{summary['num_images']:,} images at {summary['resolution']}² through their codes and "
        f"back; the mean image, which sees nothing, gives {summary['mean_image_psnr']:.2f} dB.",
        [score_table(summary["scores"]), usage, reconstruction_table(summary)],
        cards,
        "Real beside reconstruction: the worst of all, then some evenly spaced",
        {key: value for key, value in summary.items() if key not in left_out},
    )
    return write_reports(report, folder)


def _markdown(report: Report, cards: Sequence[Card], settings: Mapping[str, str]) -> str:
    parts = [f"# {report.title}", report.lead]
    for table in report.tables:
        parts += [f"## {table.title}", _markdown_table(table.header, table.rows), table.note]
    if cards:
        parts.append(f"## {report.cards_title}")
    for card in cards:
        verdict = {True: " ✓", False: " ✗", None: ""}[card.right]
        pictures = " ".join(f"![{_cell(text)}](<{path}>)" for path, text in card.pictures)
        parts += [f"**{_cell(card.title)}**{verdict} {_cell(card.note)}", pictures]
    parts += ["## What the numbers depend on", _markdown_table(("", ""), list(settings.items()))]
    return "\n\n".join(part for part in parts if part) + "\n"


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(str(cell)) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
