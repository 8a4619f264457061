r"""Reconstruction, questions, drawings, and the input ablation of a model, on one page.

Example:
    semhitok eval all --model runs/quickstart/mllm/model \
        --data runs/quickstart/data/test --out runs/eval-all
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eval.analysis import input_ablation
from eval.analysis.compare import scores_of
from eval.analysis.settings import InputAblationSettings
from eval.drawing import task as drawing
from eval.drawing.settings import GenerationSettings
from eval.measures.conditions import conditions_of
from eval.overview.run_report import REPORTS
from eval.overview.settings import RunAllSettings
from eval.reconstruction import task as reconstruction
from eval.reconstruction.settings import ReconstructionSettings
from eval.reports.page import Report, Section, parts_of, score_table, write_report
from eval.vqa import task as vqa
from eval.vqa.benchmarks.load import open_benchmark
from eval.vqa.scorers.tasks import find_task
from eval.vqa.settings import VQASettings
from mllm.saved.load import load_model
from runtime.files import read_json, write_json
from runtime.resume import holds_output
from runtime.run_folder import code_commit, start_run
from tokenizer.saved.model_folder import save_tokenizer


@holds_output
def evaluate(settings: RunAllSettings) -> Path:
    """Run the evaluations one after the other, each into a folder of its own; returns that of all.

    Writes `reconstruction/`, `vqa/`, `generation/`, `input_ablation/`, and above them
    `summary.json`, `report.html` and `report.md`.

    Raises:
        UserError: as the evaluations do.
    """
    out, model, data = settings.out, settings.model, settings.data
    open_benchmark(find_task("easy-vqa"), data)  # refuses data without questions before any work
    start_run(out, settings, "semhitok eval all")
    seconds: dict[str, float] = {}
    parts: dict[str, dict[str, Any]] = {}
    for name, run in _steps(settings).items():
        started = time.monotonic()
        parts[name] = read_json(run(out / name) / "summary.json")
        seconds[name] = time.monotonic() - started
    summary = {
        "task": "all",
        "seconds": sum(seconds.values()),
        "seconds_of": seconds,
        "scores": {
            f"{part}: {name}": score
            for part, found in parts.items()
            if part != "input_ablation"
            for name, score in scores_of(found).items()
        },
        "parts": {name: conditions_of(part) for name, part in parts.items()},
        "model": str(model),
        "data": str(data),
        "seeds": settings.seeds,
        "max_images": settings.max_images,
        "checkpoint_fingerprint": parts["vqa"]["checkpoint_fingerprint"],
        "commit": code_commit(),
    }
    write_json(out / "summary.json", summary)
    rows = [(name, f"{value:.0f}") for name, value in seconds.items()]
    report = Report(
        "Whole evaluation",
        f"Each part has its own folder; all took {summary['seconds']:.0f} seconds.",
        [
            score_table(summary["scores"]),
            Section("Seconds", header=("Part", "Seconds"), rows=rows),
            *(section for name in parts for section in parts_of(REPORTS[name](out / name))),
        ],
        {key: value for key, value in summary.items() if key not in ("scores", "seconds_of")},
    )
    write_report(report, out)
    for name, score in summary["scores"].items():
        print(f"{name:<32} {score['value']:.4g}")
    return out


def _steps(settings: RunAllSettings) -> dict[str, Callable[[Path], Path]]:
    """Each evaluation by its name, as a function of the folder that it writes."""
    model, data, tokenizer = settings.model, settings.data, settings.out / "tokenizer"
    save_tokenizer(load_model(model).image_tokenizer, tokenizer)
    steps: dict[str, Callable[[Path], Path]] = {
        "reconstruction": lambda folder: reconstruction.evaluate(
            ReconstructionSettings(tokenizer=tokenizer, data=data, out=folder)
        ),
        "vqa": lambda folder: vqa.evaluate(VQASettings(model=model, data=data, out=folder)),
        "generation": lambda folder: drawing.evaluate(
            GenerationSettings(model=model, seeds=settings.seeds, out=folder)
        ),
    }
    if settings.max_images:
        steps["input_ablation"] = lambda folder: input_ablation.evaluate(
            InputAblationSettings(
                model=model, data=data, max_images=settings.max_images, out=folder
            )
        )
    return steps
