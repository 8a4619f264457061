r"""Everything that is measured of a unified model, in one go and on one page.

Reconstruction by its image tokenizer, questions, drawings, and what the numbers are sensitive to.

Example:
    semhitok eval all --model runs/quickstart/mllm/model \
        --data runs/quickstart/data/test --out runs/eval-all
"""

import time
from argparse import Namespace
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eval.reports.evaluation_page import Report, Table, score_table, write_reports


@dataclass(frozen=True)
class CompleteSettings:
    """What a complete evaluation is run with; saved beside its results."""

    model: str
    """Folder of the unified model, which holds its image tokenizer."""
    data: str
    """Folder of a prepared data set with questions."""
    seeds: int = 4
    """Drawings of each prompt of the easy-VQA drawing task."""
    max_images: int = 40
    """Images of the sensitivity table, with all their questions; 0 leaves it out."""


def evaluate(settings: CompleteSettings, out_dir: Path | str) -> dict[str, Any]:
    """Run the evaluations one after the other, each into a folder of its own.

    Writes `reconstruction/`, `vqa/`, `generation/`, `sensitivity/`, and above them `summary.json`,
    `report.html` and `report.md`.

    Returns:
        What `summary.json` holds.

    Raises:
        UserError: as the evaluations do.
    """
    from eval.analysis import sensitivity
    from eval.drawing import easy_vqa as generation
    from eval.drawing.report import drawing_cards, report_drawings
    from eval.measures.conditions import conditions_of
    from eval.reconstruction import task as reconstruction
    from eval.reports.evaluation_page import report_reconstruction
    from eval.vqa import task as vqa
    from eval.vqa.report import report_questions
    from runtime.run_folder import describe_environment, write_json

    out_dir = Path(out_dir)
    seconds: dict[str, float] = {}
    parts: dict[str, dict[str, Any]] = {}

    def run(name: str, measure: Any, report: Any = None) -> None:
        started = time.monotonic()
        parts[name] = measure(out_dir / name)
        if report is not None:
            report(out_dir / name)
        seconds[name] = time.monotonic() - started

    tokenizer = out_dir / "tokenizer"
    _save_tokenizer(settings.model, tokenizer)
    run(
        "reconstruction",
        lambda out: reconstruction.evaluate(tokenizer, settings.data, out),
        report_reconstruction,
    )
    run("vqa", lambda out: vqa.evaluate(settings.model, settings.data, out), report_questions)
    run(
        "generation",
        lambda out: generation.evaluate(settings.model, out, settings.seeds),
        report_drawings,
    )
    if settings.max_images:
        wanted = sensitivity.SensitivitySettings(
            settings.model, settings.data, settings.max_images, seeds=1
        )
        run("sensitivity", lambda out: sensitivity.evaluate(wanted, out))
    summary = {
        "task": "all",
        "seconds": sum(seconds.values()),
        "seconds_of": seconds,
        "scores": _scores(parts),
        "parts": {name: conditions_of(part) for name, part in parts.items()},
        **asdict(settings),
        "checkpoint_fingerprint": parts["vqa"]["checkpoint_fingerprint"],
        "commit": (describe_environment()["git"] or {}).get("commit"),
    }
    write_json(out_dir / "summary.json", summary)
    tables = [score_table(summary["scores"])]
    if "sensitivity" in parts:
        tables.append(sensitivity.sensitivity_table(parts["sensitivity"]))
    tables.append(
        Table("Seconds", ("Part", "Seconds"), [(k, f"{v:.0f}") for k, v in seconds.items()])
    )
    report = Report(
        "Complete evaluation",
        f"Each part has its own folder; all took {summary['seconds']:.0f} seconds.",
        tables,
        drawing_cards(out_dir / "generation", "generation/"),
        "Drawings, the wrong ones first",
        {key: value for key, value in summary.items() if key not in ("scores", "seconds_of")},
    )
    write_reports(report, out_dir)
    return summary


def command(args: Namespace) -> Path:
    """Run `semhitok eval all`; returns the folder that was written."""
    from runtime.run_folder import RunDirectory

    settings = CompleteSettings(str(args.model), str(args.data), args.seeds, args.max_images)
    RunDirectory(args.out).start(settings, "semhitok eval all")
    summary = evaluate(settings, args.out)
    for name, score in summary["scores"].items():
        print(f"{name:<32} {score['value']:.4g}")
    print(f"{'seconds':<32} {summary['seconds']:.0f}")
    return Path(args.out)


def _save_tokenizer(model_dir: str, folder: Path) -> None:
    """The image tokenizer inside the unified model, as a folder of its own."""
    from mllm.saved.load import load_model
    from tokenizer.saved.model_folder import save_tokenizer

    save_tokenizer(load_model(model_dir).image_tokenizer, folder)


def _scores(parts: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    from eval.analysis.compare import scores_of

    return {
        f"{part}: {name}": score
        for part, summary in parts.items()
        if part != "sensitivity"
        for name, score in scores_of(summary).items()
    }
