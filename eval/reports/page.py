"""The page kit: what a report shows, and how it is written as `report.html` and `report.md`.

What went wrong comes first: a reader who sees only the best pictures learns nothing.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from eval.reports.figures import Picture, embed_picture
from runtime.files import write_text

MAX_CARDS = 48
"""Cards shown in one section; the other pictures lie in the folder."""
MARKS = {True: "✓", False: "✗", None: ""}
COUNTS = ("num_questions", "num_drawings", "num_images", "num_prompts")
"""What a score may be measured on."""


@dataclass(frozen=True)
class Bar:
    """A table cell that draws a fraction as a bar, with an upright line at its baseline."""

    fraction: float
    baseline: float | None = None


@dataclass(frozen=True)
class Card:
    """Pictures that belong together."""

    title: str
    """What was asked for, or which image it is."""
    pictures: Sequence[tuple[Path | Picture, str]]
    """Files, or pictures already embedded, which only the HTML page shows; each with a caption."""
    right: bool | None = None
    """None where there is no right and wrong."""
    note: str = ""


@dataclass(frozen=True)
class Section:
    """One part of a page: texts, a table, charts, cards; what is empty is left out."""

    title: str
    lead: str = ""
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str | Bar]] = ()
    charts: Mapping[str, str] = field(default_factory=dict)
    """Heading → inline SVG."""
    cards: Sequence[Card] = ()
    """The failures come first; among them, and among the rest, the order stays."""
    note: str = ""
    code: str = ""
    """Text of a file, shown on demand."""
    level: int = 2
    """2, or 3 for a part of the section before."""

    @property
    def shown_cards(self) -> list[Card]:
        """The failures first, and no more than fit a page."""
        return sorted(self.cards, key=lambda card: card.right is not False)[:MAX_CARDS]


@dataclass(frozen=True)
class Report:
    """What a page shows, in its order."""

    title: str
    lead: str
    sections: Sequence[Section]
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What the numbers depend on."""


def write_report(report: Report, folder: Path | str) -> Path:
    """Write `report.html`, which loads nothing from elsewhere and is returned, and `report.md`,
    which names pictures relative to the folder."""
    folder = Path(folder)
    if report.settings:
        rows = list(flat_settings(report.settings).items())
        last = Section("What the numbers depend on", rows=rows)
        report = replace(report, sections=[*report.sections, last])
    write_text(folder / "report.md", _markdown(report, folder))
    return write_text(folder / "report.html", html_page(report))


def html_page(report: Report) -> str:
    """The sections of a report as one page, which loads nothing from elsewhere."""
    environment = Environment(
        loader=PackageLoader("eval.reports", "templates"),
        autoescape=True,  # prompts and answers are other people's text
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["embed"] = lambda it: it if isinstance(it, Picture) else embed_picture(it)
    return environment.get_template("page.html.j2").render(report=report, sections=report.sections)


def parts_of(report: Report) -> list[Section]:
    """A whole report as one section with parts, for a page that holds several."""
    sections = [Section(report.title, report.lead), *report.sections]
    if report.settings:
        lines = (f"{key}: {value}" for key, value in flat_settings(report.settings).items())
        sections.append(Section("What these numbers depend on", code="\n".join(lines)))
    return [sections[0], *(replace(section, level=3) for section in sections[1:])]


def absent(title: str, what: str, where: str) -> Section:
    """A section of something that a run does not have."""
    return Section(title, f"Left out: this run has no {what} ({where}).")


def flat_settings(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings → "packages.torch": "2.13.0"; what is None is left out."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flat_settings(value, f"{prefix}{key}."))
        elif value is not None:
            flat[f"{prefix}{key}"] = str(value)
    return flat


def score_table(scores: Mapping[str, Mapping[str, Any]]) -> Section:
    """A row for each score: `value`, and where it has them `interval`, `std` and a count."""
    rows = [
        (name, f"{score['value']:.4g}", _uncertainty(score), _measured_on(score))
        for name, score in scores.items()
    ]
    header = ("Measure", "Result", "95 % interval", "Measured on")
    return Section("Scores", header=header, rows=rows)


def _markdown(report: Report, folder: Path) -> str:
    parts = [f"# {report.title}", report.lead]
    for section in report.sections:
        parts += [f"{'#' * section.level} {section.title}", section.lead]
        if section.rows:
            parts.append(_markdown_table(section.header, section.rows))
        for card in section.shown_cards:
            pictures = (
                f"![{_cell(caption)}](<{os.path.relpath(picture, folder)}>)"
                for picture, caption in card.pictures
                if isinstance(picture, Path)
            )
            parts.append(f"**{_cell(card.title)}** {MARKS[card.right]} {_cell(card.note)}")
            parts.append(" ".join(pictures))
        parts.append(section.note)
    return "\n\n".join(part for part in parts if part) + "\n"


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str | Bar]]) -> str:
    header = header or [""] * len(rows[0])
    kept = [i for i in range(len(header)) if not any(isinstance(row[i], Bar) for row in rows)]
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(str(line[i])) for i in kept) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _uncertainty(score: Mapping[str, Any]) -> str:
    """The interval of a score, or of a kernel distance its spread and what that is over."""
    if interval := score.get("interval"):
        return f"{interval[0]:.4g} to {interval[1]:.4g}"
    subsets = str(score.get("rule", "")).partition(";")[0]
    if score.get("std") is not None:
        return f"spread {score['std']:.3g}" + (f" over {subsets}" if subsets else "")
    return subsets or "–"


def _measured_on(score: Mapping[str, Any]) -> str:
    for key in COUNTS:
        if number := score.get(key):
            numbers = number if isinstance(number, list) else [number]
            cut = f", {score['num_cut']:,} prompts cut" if score.get("num_cut") else ""
            return f"{' and '.join(f'{n:,}' for n in numbers)} {key.removeprefix('num_')}{cut}"
    return "–"
