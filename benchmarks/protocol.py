"""How every benchmark measures and reports: in turn, in one process, a table, one JSON line."""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from runtime.run_folder import describe_environment


def make_parser(about: str | None, example: str, repeats: int = 5) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks share.

    Args:
        about: the description of the benchmark.
        example: command line.
        repeats: timed rounds, by default.
    """
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        description=about, epilog=f"example:\n  {example}", formatter_class=kind
    )
    add = parser.add_argument
    add("--repeats", type=positive, default=repeats, help=f"timed rounds (default: {repeats})")
    add("--threads", type=positive, help="CPU threads (default: torch's choice)")
    add("--seed", type=int, default=0, help="of the random inputs (default: 0)")
    add("--device", type=device, default="cpu", help="cpu or cuda (default: cpu)")
    return parser


def positive(text: str) -> int:
    """An argument that must be a whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def device(text: str) -> str:
    """The name of a device that is there."""
    name = text.split(":")[0]
    if name not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"must be cpu or cuda, not {text!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError("torch sees no CUDA device here; choose cpu")
    return text


def start(arguments: argparse.Namespace) -> torch.device:
    """Apply the shared options; return the device."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    return torch.device(arguments.device)


def median_seconds(runs: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Time each of `runs` `repeats` times, a b a b …, after one untimed round.

    In turn, since a machine that others use is not as fast now as a minute ago.

    Returns:
        The median of each run's seconds, by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(repeats + 1):
        for name, run in runs.items():
            _wait_for_gpu()
            started = time.perf_counter()
            run()
            _wait_for_gpu()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return medians(seconds)


def medians(series: dict[str, list[float]]) -> dict[str, float]:
    """The middle value of each, which a single hiccup does not move."""
    return {name: statistics.median(values) for name, values in series.items()}


def peak_bytes(run: Callable[[], Any], device: torch.device) -> int:
    """The most memory that `run` holds at once in tensors, beside what was there before.

    On CUDA it is the allocator's own count; on a CPU it is summed from the profiler's record of
    every allocation. Buffers inside a matrix library aren't seen.
    """
    if device.type == "cuda":
        _wait_for_gpu()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        _wait_for_gpu()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    changes = [event for event in events if event.get("name") == "[memory]"]
    held = peak = 0
    for change in sorted(changes, key=lambda event: event["ts"]):
        held += change["args"]["Bytes"]
        peak = max(peak, held)
    return peak


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Columns under each other, headed by their keys, the numbers to the right, in Markdown."""
    lines = [[_text(cell) for cell in row] for row in (rows[0], *(row.values() for row in rows))]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    for line in lines:
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        print(f"| {' | '.join(cells)} |")


def print_result(
    benchmark: str, ratio: float, arguments: argparse.Namespace, **values: Any
) -> None:
    """The last line: JSON with `benchmark`, `ratio` (above 1 is better), options and machine."""
    machine = describe_environment() | {
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    record = {"benchmark": benchmark, "ratio": ratio} | vars(arguments) | values | machine
    print(json.dumps(record, default=str), flush=True)


def _wait_for_gpu() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _text(cell: Any) -> str:
    return f"{cell:,.4g}" if isinstance(cell, float) else str(cell)
