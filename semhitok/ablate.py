"""Trains every variant of an ablation with every seed, measures each, and writes one table.

    semhitok ablate --config configs/ablation/quickstart.yaml [only=[sghc,flat]] [jobs=2]

A finished step is skipped by the next run, and an interrupted phase resumes from its checkpoint.
"""

import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from runtime.files import read_json, write_json, write_text
from runtime.resume import run_lock
from runtime.run_folder import start_run
from semhitok.ablation_plan import MeasureStep, Step, plan
from semhitok.ablation_settings import AblationSettings
from semhitok.commands import COMMANDS
from semhitok.recipe import forget_accelerators


def ablate(settings: AblationSettings) -> Path:
    """Run all steps that are not done yet, and write `table.md` and `summary.json`.

    Args:
        settings: with paths of the phases' files that can be opened from here.

    Returns:
        The table.

    Raises:
        UserError: where a setting, a phase or a measure refuses its input.
    """
    steps = plan(settings)  # before anything is written, so that a slip costs no time
    with run_lock(settings.out):
        return _run(settings, steps)


def _run(settings: AblationSettings, steps: list[Step]) -> Path:
    start_run(settings.out, settings, "semhitok ablate")
    _prepare(settings)
    waiting = [step for step in steps if not step.mark.is_file()]
    if settings.jobs == 1:
        for number, step in enumerate(waiting, start=1):
            print(f"[{number}/{len(waiting)}] {step.name}", file=sys.stderr, flush=True)
            run_step(step)
    else:
        _run_side_by_side(waiting, settings.jobs)
    table = _write_table(settings, [step for step in steps if isinstance(step, MeasureStep)])
    print(table.read_text(encoding="utf-8").split("\n## ")[0].partition("\n")[2].strip())
    return table


def run_step(step: Step) -> None:
    """Train or measure, and leave the step's mark."""
    if isinstance(step, MeasureStep):
        from eval.analysis.ablation import measure

        measure(step.model, step.train_data, step.test_data, step.folder, step.probes)
        return
    started = time.monotonic()
    COMMANDS[f"train {step.phase}"].run(step.settings)
    forget_accelerators()
    write_json(step.mark, {"seconds": time.monotonic() - started})


def _run_side_by_side(waiting: list[Step], jobs: int) -> None:
    """Each step in one of `jobs` processes, as soon as the step that it needs is done."""
    total = len(waiting)
    running: dict[Future, Step] = {}
    context = get_context("spawn")  # a forked torch may hang in its threads
    with ProcessPoolExecutor(jobs, context, _share_cores, (jobs,)) as pool:
        try:
            while waiting or running:
                missing = {step.folder for step in (*waiting, *running.values())}
                ready = [step for step in waiting if step.after not in missing]
                for step in ready[: jobs - len(running)]:
                    running[pool.submit(run_step, step)] = step
                    waiting.remove(step)
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    step = running.pop(future)
                    future.result()  # raises what the step raised
                    number = total - len(waiting) - len(running)
                    print(f"[{number}/{total}] {step.name}", file=sys.stderr, flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _share_cores(jobs: int) -> None:
    """In each process: its part of the cores, and no progress line over the others'."""
    import torch

    torch.set_num_threads(max(1, torch.get_num_threads() // jobs))
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115  (for as long as the process lives)


def _prepare(settings: AblationSettings) -> None:
    from data_pipelines.prepare.run import prepare
    from data_pipelines.prepare.settings import PrepareSettings

    for split, source in (("train", settings.train_source), ("test", settings.test_source)):
        prepare(PrepareSettings(sources=[source], out=str(settings.out / "data" / split)))


def _write_table(settings: AblationSettings, measured: Sequence[MeasureStep]) -> Path:
    from eval.analysis.ablation_table import ablation_markdown, ablation_rows

    summaries: dict[str, list[dict[str, Any]]] = {}
    for step in measured:
        summaries.setdefault(step.variant, []).append(read_json(step.mark))
    about = {name: variant.about for name, variant in settings.variants.items()}
    rows = ablation_rows(summaries, about)
    first = next(iter(summaries.values()))[0]
    majorities = {
        name.rpartition(".")[0]: probe["majority"] for name, probe in first["probes"].items()
    }
    seeds = ", ".join(str(seed) for seed in settings.seeds)
    teacher = settings.teacher or "trained once, and shared by all variants and seeds"
    facts = [
        f"Seeds {seeds}: of weights, data order and codebook starts. Teacher: {teacher}.",
        f"Learned from {settings.train_source}, measured on {settings.test_source}; settings in "
        f"`config.yaml`, versions in `environment.json`, each result in `seed-*/measured-*`.",
    ]
    write_json(
        settings.out / "summary.json",
        {
            "task": "ablation",
            "seeds": settings.seeds,
            "train_source": settings.train_source,
            "test_source": settings.test_source,
            "teacher": settings.teacher,
            "majorities": majorities,
            "rows": rows,
            "results": {
                name: [str(step.folder) for step in measured if step.variant == name]
                for name in summaries
            },
        },
    )
    return write_text(settings.out / "table.md", ablation_markdown(rows, majorities, facts))
