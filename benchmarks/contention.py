"""Training and drawing beside other processes: how many times as long as alone.

OpenMP threads that spin while they wait are up to 14 times slower beside one busy process, since
one of them is always the one that does not run. The command line lets them sleep instead
(`OMP_WAIT_POLICY=PASSIVE`, unless the user has set it). What is timed is a whole command, alone and
beside one and two processes that only count: the quickstart's pixel phase, and `generate` with an
untrained model of the quickstart's size.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import protocol

CONFIGS = "configs/quickstart"
BARS = {"pixel_one_busy": 2.2, "generate_two_busy": 3.0}
"""Most times over alone that are acceptable."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = protocol.make_parser(__doc__, "python -m benchmarks.contention", repeats=1)
    add = parser.add_argument
    add("--steps", type=protocol.positive, default=100, help="of the pixel phase (default: 100)")
    add("--images", type=protocol.positive, default=64, help="to draw (default: 64)")
    arguments = parser.parse_args(argv)
    if arguments.threads:
        os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        commands = _prepare(Path(folder), arguments.steps, arguments.images)
        for number in range(arguments.repeats):
            for num_busy, name in enumerate(("alone", "one_busy", "two_busy")):
                for command, words in commands.items():
                    out = f"{folder}/{command}-{name}-{number}"
                    with _busy(num_busy):
                        started = time.perf_counter()
                        _semhitok(*words, f"out={out}" if command == "pixel" else f"--out={out}")
                        taken = time.perf_counter() - started
                    seconds.setdefault(f"{command}_{name}", []).append(taken)
    middle = protocol.medians(seconds)
    times = {
        f"{command}_{name}": middle[f"{command}_{name}"] / middle[f"{command}_alone"]
        for command in commands
        for name in ("one_busy", "two_busy")
    }
    rows = [
        {
            "command": command,
            "alone s": middle[f"{command}_alone"],
            "times with one": times[f"{command}_one_busy"],
            "times with two": times[f"{command}_two_busy"],
        }
        for command in commands
    ]
    protocol.print_table(rows)
    ratio = min(bar / times[name] for name, bar in BARS.items())
    protocol.print_result("contention", ratio, arguments, **times, seconds=middle, bars=BARS)


def _prepare(folder: Path, num_steps: int, num_images: int) -> dict[str, list[str]]:
    """Data and untrained models; the two commands without their output folders."""
    data, teacher, semantic = folder / "data", folder / "teacher", folder / "semantic"
    start, few = folder / "start", ["training.num_steps=2", f"data={data}"]
    pixel = ["train", "pixel", f"--config={CONFIGS}/pixel.yaml", f"tokenizer={semantic}/model"]
    _semhitok("prepare", "easy-vqa-test", f"--out={data}")
    _semhitok("train", "teacher", f"--config={CONFIGS}/teacher.yaml", *few, f"out={teacher}")
    _semhitok(
        "train", "semantic", f"--config={CONFIGS}/semantic.yaml", *few,
        f"teacher={teacher}/model", f"out={semantic}",
    )  # fmt: skip
    _semhitok(*pixel, *few, f"out={folder / 'pixel'}")
    _semhitok(
        "init-mllm", f"--config={CONFIGS}/init_mllm.yaml", f"tokenizer={folder}/pixel/model",
        f"text_data=[{data}]", f"out={start}",
    )  # fmt: skip
    drawing = ["generate", f"--model={start}", "--prompt=a teal triangle", "--num-candidates=1"]
    return {
        "pixel": [*pixel, f"data={data}", f"training.num_steps={num_steps}"],
        "generate": [*drawing, f"--num-images={num_images}"],
    }


def _semhitok(*words: str) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "semhitok", *words], capture_output=True, text=True
    )
    if finished.returncode:
        raise SystemExit(f"semhitok {' '.join(words)} failed:\n{finished.stderr}")


@contextlib.contextmanager
def _busy(count: int) -> Iterator[None]:
    """Processes that keep a core each at work."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
