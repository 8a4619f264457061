"""Everything on small real data, on a CPU: train, answer, draw, measure, report.

    semhitok quickstart [--out DIR] [--preset short|long]

Every step is one of the public commands with its YAML from configs/. A finished step leaves a mark
and is skipped by the next run; an interrupted training step goes on from its checkpoint.
"""

import argparse
import os
import resource
import shutil
import sys
import time
import webbrowser
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runtime.config import load_config, read_values
from runtime.errors import UserError
from runtime.run_folder import RunDirectory, read_json, write_json
from runtime.settings import load_settings

CONFIGS = Path(__file__).parent.parent / "configs"
NUM_EXAMPLES = 8


@dataclass
class QuickstartConfig:
    """What the quickstart is made of."""

    train_source: str
    """Source of `semhitok prepare` to learn from."""
    test_source: str
    """Source to measure on."""
    phases: Path
    """Folder of the phases' YAML files, relative to this one's."""
    preset: str = "custom"
    """Name of the preset, whose targets the report shows."""
    seeds_per_prompt: int = 4
    """Drawings of each prompt."""
    seed: int = 0
    """Of every phase."""


def run_quickstart(config: QuickstartConfig, out: Path) -> Path:
    """Run all steps that are not done yet.

    Args:
        config: see `QuickstartConfig`.
        out: folder for everything.

    Returns:
        The report.
    """
    run = RunDirectory(out)
    marks = out / "steps"
    report = out / "report.html"
    if (marks / "report.json").is_file() and report.is_file():
        _refuse_other_config(out, config)
        return report
    _refuse_other_config(out, config)
    run.start(config, "quickstart")
    write_json(out / "quickstart.json", _identity(config))
    steps = _steps(config, out)
    for number, (name, step) in enumerate(steps.items(), start=1):
        mark = marks / f"{name}.json"
        if mark.is_file():
            continue
        print(f"[{number}/{len(steps)}] {name}", file=sys.stderr, flush=True)
        begun = marks / f"{name}.begun"
        resumed = begun.exists()
        marks.mkdir(exist_ok=True)
        begun.touch()
        started = time.monotonic()
        step()
        forget_accelerators()
        unit = 1 if sys.platform == "darwin" else 2**10  # macOS counts bytes, Linux KiB
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
        seconds = time.monotonic() - started
        write_json(mark, {"seconds": seconds, "peak_memory_gb": peak, "resumed": resumed})
        begun.unlink()
    return report


def _steps(config: QuickstartConfig, out: Path) -> dict[str, Callable[[], Any]]:
    """The steps by name, in order; what they import is imported when they run."""
    data, codes = out / "data", out / "codes" / "train"
    tokenizer, model = out / "decoder" / "model", out / "mllm" / "model"

    def prepare() -> None:
        from data_pipelines.prepare.run import prepare as prepare_source
        from data_pipelines.prepare.settings import PrepareSettings

        for split, source in (("train", config.train_source), ("test", config.test_source)):
            prepare_source(PrepareSettings(sources=[source], out=str(data / split)))
        _write_examples(data / "test", out / "images")

    def train(phase: str, **paths: Path) -> Callable[[], Any]:
        def step() -> None:
            from runtime.settings import load_settings
            from tokenizer.training.settings import PHASE_SETTINGS
            from tokenizer.training.train import train_phase

            path = _phase_file(config, phase)
            overrides = _overrides(data=data / "train", out=out / phase, **paths)
            overrides.append(f"training.seed={config.seed}")
            train_phase(load_settings(PHASE_SETTINGS[phase], path, overrides))

        return step

    def extract() -> None:
        from tokenizer.extraction.extract import extract_codes
        from tokenizer.extraction.settings import ExtractCodesSettings

        train_data = str(data / "train")
        extract_codes(ExtractCodesSettings(tokenizer=tokenizer, data=train_data, out=str(codes)))

    def mllm() -> None:
        from mllm.init.build import init_mllm
        from mllm.init.settings import InitSettings
        from mllm.phase.settings import PhaseSettings
        from mllm.training.train import train_mllm

        start = out / "mllm" / "start"
        overrides = _overrides(tokenizer=tokenizer, out=start)
        overrides += [f"text_data=[{data / 'train'}]", f"seed={config.seed}"]
        if not (start / "config.json").is_file():
            init_mllm(load_settings(InitSettings, _phase_file(config, "init_mllm"), overrides))
        overrides = _overrides(data=data / "train", codes=codes, model=start, out=out / "mllm")
        overrides.append(f"seed={config.seed}")
        train_mllm(PhaseSettings.load(_phase_file(config, "mllm"), overrides))

    def reconstruction() -> None:
        from eval.reconstruction.settings import ReconstructionSettings
        from eval.reconstruction.task import evaluate

        folder = out / "eval" / "reconstruction"
        test = str(data / "test")
        evaluate(ReconstructionSettings(tokenizer=tokenizer, data=test, out=folder))

    def vqa() -> None:
        from eval.vqa.settings import VQASettings
        from eval.vqa.task import evaluate

        test, folder = str(data / "test"), out / "eval" / "vqa"
        evaluate(VQASettings(model=model, data=test, out=folder, train_data=data / "train"))

    def drawing() -> None:
        from eval.drawing.settings import GenerationSettings
        from eval.drawing.task import evaluate

        folder = out / "eval" / "generation"
        evaluate(GenerationSettings(model=model, seeds=config.seeds_per_prompt, out=folder))

    def report() -> None:
        from eval.overview.run_report import summarize, write_report

        marks = {path.stem: read_json(path) for path in (out / "steps").glob("*.json")}
        timings = {name: mark["seconds"] for name, mark in marks.items()}
        write_json(out / "timings.json", timings)
        peak = max(mark["peak_memory_gb"] for mark in marks.values())
        # What a killed attempt took is not known: then there is no honest duration.
        whole = not any(mark["resumed"] for mark in marks.values())
        summarize(out, sum(timings.values()) if whole else None, peak)
        write_report(out)

    return {
        "prepare": prepare,
        "teacher": train("teacher"),
        "semantic": train("semantic", teacher=out / "teacher" / "model"),
        "pixel": train("pixel", tokenizer=out / "semantic" / "model"),
        "decoder": train("decoder", tokenizer=out / "pixel" / "model"),
        "extract-codes": extract,
        "mllm": mllm,
        "eval-reconstruction": reconstruction,
        "eval-vqa": vqa,
        "eval-generation": drawing,
        "report": report,
    }


def _phase_file(config: QuickstartConfig, phase: str) -> Path:
    return config.phases / f"{phase}.yaml"


def _overrides(**paths: Path) -> list[str]:
    return [f"{key}={path}" for key, path in paths.items()]


def _identity(config: QuickstartConfig) -> dict[str, Any]:
    """What must be the same for a folder to be gone on with; where files lie does not matter."""
    phases = {path.name: read_values(path) for path in sorted(config.phases.glob("*.yaml"))}
    return asdict(config) | {"phases": phases}


def _refuse_other_config(out: Path, config: QuickstartConfig) -> None:
    path = out / "quickstart.json"
    if path.is_file() and read_json(path) != _identity(config):
        raise UserError(
            f"{out} holds a quickstart with other settings: give another --out, or delete it."
        )


def _write_examples(data: Path, folder: Path) -> None:
    """A few test images as files, for the commands that take a picture."""
    from data_pipelines.loading.dataset import PreparedDataset

    folder.mkdir(exist_ok=True)
    dataset = PreparedDataset(data, images_only=True)
    for index in range(min(NUM_EXAMPLES, len(dataset))):
        image = dataset[index].image
        assert image is not None
        (folder / f"test-{index}.png").write_bytes(image)


def forget_accelerators() -> None:
    """Each phase chooses its own device and precision, which accelerate keeps for the process."""
    if "accelerate" in sys.modules:
        from accelerate.state import AcceleratorState, GradientState

        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()


def command(args: argparse.Namespace) -> Path:
    """`semhitok quickstart`."""
    path = Path(args.config) if args.config else CONFIGS / f"quickstart-{args.preset}.yaml"
    config = load_config(QuickstartConfig, path)
    config.phases = (path.parent / config.phases).resolve()
    if not config.phases.is_dir():
        raise UserError(f"{path} names the folder of phases {config.phases}, which does not exist.")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    _require_space(Path(args.out))
    report = run_quickstart(config, Path(args.out))
    for key, value in read_json(report.parent / "summary.json").items():
        if isinstance(value, float | int):
            print(f"{key:<40} {value:.4g}")
    opens = sys.stdout.isatty() if args.open is None else args.open
    if opens:
        webbrowser.open(report.resolve().as_uri())
    return report


def _require_space(out: Path, needed_gb: float = 0.5) -> None:
    folder = out
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 2**30
    if free < needed_gb:
        raise UserError(
            f"{folder} has {free:.1f} GB free, and the quickstart needs {needed_gb} GB."
        )
