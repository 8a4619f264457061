"""Processes of their own for tests, without the seconds that importing torch takes.

They are forks of one server for each test worker, which has imported the libraries and nothing of
ours: real processes, with their own environment, folder and output, which can be killed. One test
of each real launcher and of `python -m semhitok` stays with the real thing.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.ports import free_port

GRACE_SECONDS = 10.0
REPOSITORY = Path(__file__).parents[1]
LIBRARIES = [
    "torch", "torch._dynamo", "torch.distributed.tensor", "transformers.trainer", "accelerate",
    "peft", "datasets", "scipy.optimize",
]  # fmt: skip

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(LIBRARIES)


class Forked:
    """As much of `subprocess.Popen` as tests need, for `python ARGUMENTS`.

    Args:
        arguments: `-m MODULE ...` or `-c CODE ...`.
        environment: on top of this process's.
        folder: where it runs.
        stdin: what it reads.
    """

    def __init__(
        self,
        arguments: Sequence[object],
        environment: dict[str, str] | None = None,
        folder: Path = REPOSITORY,
        stdin: str = "",
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="forked-")
        streams = [Path(self._folder.name, name) for name in ("stdin", "stdout", "stderr")]
        streams[0].write_text(stdin)
        variables = dict(os.environ) | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        self._process = FORKS.Process(
            target=_run,
            args=(list(map(str, arguments)), variables | (environment or {}), folder, streams),
        )
        self._process.start()
        self._streams = streams

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def communicate(self) -> tuple[str, str]:
        """What it wrote to stdout and stderr, once it has ended."""
        self._process.join()
        if not hasattr(self, "_written"):
            self._written = tuple(path.read_text(errors="replace") for path in self._streams[1:])
            self._folder.cleanup()
        return self._written


def run(*arguments: object, **options) -> subprocess.CompletedProcess:
    """`subprocess.run` for `python ARGUMENTS`, with its output as text."""
    return _completed(Forked(arguments, **options))


def run_ranks(count: int, *arguments: object) -> subprocess.CompletedProcess:
    """The same on several ranks at once, as torchrun would start them."""
    launch = {
        "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()), "DS_ACCELERATOR": "cpu",
    }  # fmt: skip
    ranks = [
        Forked(arguments, launch | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(count)
    ]
    grace = GRACE_SECONDS
    while (codes := [rank.poll() for rank in ranks]) and None in codes:
        ranks[codes.index(None)]._process.join(0.05)
        grace -= 0.05 if any(codes) else 0
        if grace <= 0:  # as torchrun does, once one has failed
            for rank in ranks:
                rank.kill()
    ended = [_completed(rank) for rank in ranks]
    failed = next((each for each in ended if each.returncode), ended[0])
    return subprocess.CompletedProcess(
        failed.args,
        failed.returncode,
        "".join(each.stdout for each in ended),
        "".join(each.stderr for each in ended),
    )


def _completed(process: Forked) -> subprocess.CompletedProcess:
    stdout, stderr = process.communicate()
    assert process.returncode is not None
    return subprocess.CompletedProcess([], process.returncode, stdout, stderr)


def _run(arguments: list[str], environment: dict[str, str], folder: Path, streams: list) -> None:
    """In the fork: become the process that was asked for."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, path in enumerate(streams):
        file = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(file, number)
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
        for number, mode in enumerate("rww")
    )
    kind, what, *rest = arguments
    if kind == "-m":
        sys.argv = [what, *rest]
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        assert kind == "-c"
        sys.argv = ["-c", *rest]
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
