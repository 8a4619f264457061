"""Train every variant of an ablation with every seed, measure each, and write one table.

    semhitok ablate --config configs/ablation/quickstart.yaml [--only sghc,flat] [--jobs 2]

A finished step is skipped by the next run, and an interrupted phase goes on from its checkpoint.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from runtime.config import load_config
from runtime.run_folder import RunDirectory, read_json, write_json, write_text
from semhitok.ablation_plan import (
    AblationConfig,
    MeasureStep,
    Step,
    TrainStep,
    phase_settings,
    plan,
)
from semhitok.quickstart import forget_accelerators


def run_ablation(config: AblationConfig, only: Sequence[str] | None = None, jobs: int = 1) -> Path:
    """Run all steps that are not done yet, and write `table.md` and `summary.json`.

    Args:
        config: with paths that can be opened from here.
        only: names of the variants to take; all by default.
        jobs: steps at a time, which share the cores.

    Returns:
        The table.

    Raises:
        UserError: where a setting, a phase or a measure refuses its input.
    """
    steps = plan(config, only)  # before anything is written, so that a slip costs no time
    RunDirectory(config.out).start(config, "semhitok ablate")
    _prepare(config)
    waiting = [step for step in steps if not step.mark.is_file()]
    if jobs == 1:
        for number, step in enumerate(waiting, start=1):
            print(f"[{number}/{len(waiting)}] {_name(step)}", file=sys.stderr, flush=True)
            run_step(step)
    else:
        _run_side_by_side(waiting, jobs)
    return _write_table(config, [step for step in steps if isinstance(step, MeasureStep)])


def run_step(step: Step) -> None:
    """Train or measure, and leave the step's mark."""
    if isinstance(step, MeasureStep):
        from eval.analysis.ablation import measure

        measure(step.model, step.train_data, step.test_data, step.folder, step.probes)
        return
    from tokenizer.training.train import train_phase

    started = time.monotonic()
    train_phase(phase_settings(step.phase, step.file, step.values))
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
                    print(f"[{number}/{total}] {_name(step)}", file=sys.stderr, flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _share_cores(jobs: int) -> None:
    """In each process: its part of the cores, and no progress line over the others'."""
    import torch

    torch.set_num_threads(max(1, torch.get_num_threads() // jobs))
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115  (for as long as the process lives)


def _prepare(config: AblationConfig) -> None:
    from data_pipelines.manifest import MANIFEST_NAME
    from data_pipelines.prepare.run import prepare
    from data_pipelines.prepare.settings import PrepareSettings

    for split, source in (("train", config.train_source), ("test", config.test_source)):
        folder = config.out / "data" / split
        mark = folder.with_name(f"{split}.json")
        whole = mark.is_file() and (folder / MANIFEST_NAME).is_file()
        if whole and read_json(mark) == {"source": source}:
            continue
        prepare(PrepareSettings(sources=[source], out=str(folder)))
        write_json(mark, {"source": source})


def _write_table(config: AblationConfig, measured: Sequence[MeasureStep]) -> Path:
    from eval.analysis.ablation_table import ablation_markdown, ablation_rows

    summaries: dict[str, list[dict[str, Any]]] = {}
    for step in measured:
        summaries.setdefault(step.variant, []).append(read_json(step.mark))
    about = {name: variant.about for name, variant in config.variants.items()}
    rows = ablation_rows(summaries, about)
    first = next(iter(summaries.values()))[0]
    majorities = {
        name.rpartition(".")[0]: probe["majority"] for name, probe in first["probes"].items()
    }
    seeds = ", ".join(str(seed) for seed in config.seeds)
    teacher = config.teacher or "trained once, and shared by all variants and seeds"
    facts = [
        f"Seeds {seeds}: of weights, data order and codebook starts. Teacher: {teacher}.",
        f"Learned from {config.train_source}, measured on {config.test_source}; settings in "
        f"`config.yaml`, versions in `environment.json`, each result in `seed-*/measured-*`.",
    ]
    write_json(
        config.out / "summary.json",
        {
            "task": "ablation",
            "seeds": config.seeds,
            "train_source": config.train_source,
            "test_source": config.test_source,
            "teacher": config.teacher,
            "majorities": majorities,
            "rows": rows,
            "results": {
                name: [str(step.folder) for step in measured if step.variant == name]
                for name in summaries
            },
        },
    )
    return write_text(config.out / "table.md", ablation_markdown(rows, majorities, facts))


def _name(step: Step) -> str:
    if isinstance(step, TrainStep):
        return f"train {step.phase}, {step.folder.parent.name}"
    return f"measure {step.variant}, seed-{step.seed}"


def command(args: argparse.Namespace) -> Path:
    """`semhitok ablate`."""
    path = Path(args.config)
    config = load_config(AblationConfig, path, args.overrides)
    config.phases = {name: path.parent / file for name, file in config.phases.items()}
    table = run_ablation(config, args.only, args.jobs)
    print(table.read_text(encoding="utf-8").split("\n## ")[0].partition("\n")[2].strip())
    return table
