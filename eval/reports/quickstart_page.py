"""One self-contained HTML page about a quickstart: numbers, pictures, curves and settings.

What the page shows is read from the run's folder; a part that is not there is left out with a line
that says so, so a page can be made of an unfinished run.
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from eval.reports.figures import code_frequencies, code_map, picture, training_curves
from eval.reports.numbers import flat_summary, number_rows, percent
from eval.reports.pages import flat_settings, saved_rows, templates
from runtime.errors import UserError

EVALUATIONS = ("reconstruction", "vqa", "generation")
PHASES = ("teacher", "semantic", "pixel", "decoder", "mllm")


@dataclass(frozen=True)
class RunFiles:
    """What a quickstart's folder holds of what a report wants."""

    path: Path
    evaluations: dict[str, dict[str, Any] | None]
    """Summary of each evaluation; None where it is missing."""
    environment: dict[str, Any]
    config_text: str
    """The resolved config as it was saved; empty where it is missing."""
    timings: dict[str, float]
    """Seconds of each step."""
    metrics: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Lines of each phase's log."""

    @property
    def preset(self) -> str | None:
        """Whose targets apply: the config's, else "short"; None on data of another source."""
        import yaml

        config = yaml.safe_load(self.config_text) if self.config_text else None
        config = config if isinstance(config, dict) else {}
        if config.get("test_source", "easy-vqa-test") != "easy-vqa-test":
            return None
        return str(config.get("preset", "short"))


def read_run(run_dir: Path | str) -> RunFiles:
    """Read the small files of a run.

    Raises:
        UserError: if there is no such folder, or one of its files is damaged.
    """
    from runtime.metrics_log import read_metrics

    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise UserError(f"There is no run at {run_dir}.")
    config = run_dir / "config.yaml"
    logs = {phase: run_dir / phase / "metrics.jsonl" for phase in PHASES}
    return RunFiles(
        path=run_dir,
        evaluations={
            name: _optional_json(run_dir / "eval" / name / "summary.json") for name in EVALUATIONS
        },
        environment=_optional_json(run_dir / "environment.json") or {},
        config_text=config.read_text(encoding="utf-8") if config.is_file() else "",
        timings=_optional_json(run_dir / "timings.json") or {},
        metrics={phase: read_metrics(path) for phase, path in logs.items() if path.is_file()},
    )


def summarize(
    run_dir: Path | str, seconds: float | None, peak_memory_gb: float | None
) -> dict[str, Any]:
    """Write the run's `summary.json` with flat keys; see `flat_summary` for them.

    Args:
        run_dir: a quickstart's folder.
        seconds: duration of the whole run.
        peak_memory_gb: most memory that the run held, in GiB.

    Returns:
        What was written.

    Raises:
        UserError: as `read_run`.
    """
    from runtime.run_folder import write_json

    summary = flat_summary(read_run(run_dir).evaluations, seconds, peak_memory_gb)
    write_json(Path(run_dir) / "summary.json", summary)
    return summary


def write_report(run_dir: Path | str) -> Path:
    """Build `report.html` from what a quickstart's folder holds.

    The page loads nothing from elsewhere: pictures are data URIs, charts inline SVG.

    Args:
        run_dir: the folder; call `summarize` before, for the duration and the memory.

    Returns:
        The path of the page.

    Raises:
        UserError: as `read_run`.
    """
    from runtime.run_folder import write_text

    run = read_run(run_dir)
    environment = templates()
    environment.filters["percent"] = percent
    summary = _optional_json(run.path / "summary.json") or {}
    cost = (summary.get("seconds"), summary.get("peak_memory_gb"))
    page = environment.get_template("report.html.j2").render(
        numbers=number_rows(run.evaluations, *cost, preset=run.preset),
        preset=run.preset,
        reconstruction=run.evaluations["reconstruction"],
        vqa=run.evaluations["vqa"],
        drawing=run.evaluations["generation"],
        pairs=_pairs(run),
        codebook_charts=_codebook_charts(run),
        drawings=_drawings(run),
        examples=_examples(run),
        curves={
            phase: training_curves(rows, f"curves-{phase}") for phase, rows in run.metrics.items()
        },
        phases=PHASES,
        timings=run.timings,
        environment=flat_settings(run.environment),
        config_text=run.config_text,
    )
    return Path(write_text(run.path / "report.html", page))


def _pairs(run: RunFiles) -> list[dict[str, Any]]:
    """Real image, reconstruction and code maps of the saved pairs, the worst first."""
    folder = run.path / "eval" / "reconstruction"
    if not run.evaluations["reconstruction"] or not (folder / "codes.npz").is_file():
        return []
    with np.load(folder / "codes.npz") as codes:
        semantic, pixel = codes["semantic"], codes["pixel"]
        semantic_counts, pixel_counts = codes["semantic_counts"], codes["pixel_counts"]
    shown = [row for row in saved_rows(folder / "per_image.jsonl") if "pair" in row]
    return [
        {
            **row,
            "real": picture(folder / "pairs" / f"{row['pair']:02d}_real.png"),
            "rebuilt": picture(folder / "pairs" / f"{row['pair']:02d}_reconstruction.png"),
            "semantic": code_map(semantic[row["pair"]], semantic_counts),
            "pixel": code_map(pixel[row["pair"]], pixel_counts.sum(axis=0)),
            "num_semantic": len(np.unique(semantic[row["pair"]])),
        }
        for row in sorted(shown, key=lambda row: row["psnr"])
    ]


def _codebook_charts(run: RunFiles) -> list[str]:
    path = run.path / "eval" / "reconstruction" / "codes.npz"
    if not path.is_file():
        return []
    with np.load(path) as codes:
        return [
            code_frequencies(codes["semantic_counts"], "Semantic codes", "frequencies-semantic"),
            code_frequencies(codes["pixel_counts"], "Pixel codes", "frequencies-pixel"),
        ]


def _drawings(run: RunFiles) -> dict[str, list[dict[str, Any]]]:
    """Prompt → its judged drawings, in the order they were drawn."""
    folder = run.path / "eval" / "generation"
    if not run.evaluations["generation"]:
        return {}
    drawings: dict[str, list[dict[str, Any]]] = {}
    for row in saved_rows(folder / "judged.jsonl"):
        shown = {**row, "picture": picture(folder / row["image"])}
        drawings.setdefault(row["prompt"], []).append(shown)
    return drawings


def _examples(run: RunFiles) -> list[dict[str, Any]]:
    """Wrong answers, then right ones, each group with how many there are in all."""
    folder = run.path / "eval" / "vqa"
    vqa = run.evaluations["vqa"]
    if not vqa:
        return []
    rows = [
        {**row, "picture": picture(folder / row["image"])}
        for row in saved_rows(folder / "examples.jsonl")
    ]
    num_right = vqa["overall"]["num_correct"]
    totals = Counter({False: vqa["num_questions"] - num_right, True: num_right})
    return [
        {
            "correct": correct,
            "total": totals[correct],
            "rows": [row for row in rows if row["correct"] is correct],
        }
        for correct in (False, True)
    ]


def _optional_json(path: Path) -> Any:
    from runtime.run_folder import read_json

    return read_json(path) if path.is_file() else None
