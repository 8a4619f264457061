"""Runs commands one after another under a limit of 2 GB: python in_two_gigabytes.py CASES.json.

Prints a JSON object for each: its exit code (or what it raised), last line of stderr, seconds, and
the most memory that the process has had until then, in MB.
"""

import resource

resource.setrlimit(resource.RLIMIT_DATA, (2 * 2**30, 2 * 2**30))

import contextlib  # noqa: E402
import io  # noqa: E402
import json  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402

from semhitok import main as cli  # noqa: E402

SECONDS = 30
"""A case that computes longer is stopped, and counts as a failure."""


class TooLong(BaseException):
    pass


def stop(*_: object) -> None:
    raise TooLong


def run(words: list[str]) -> dict:
    error, started = io.StringIO(), time.process_time()
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
            code = cli.main(words)
    except BaseException as raised:
        code = repr(raised)[:300]
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return {
        "code": code,
        "said": ["", *error.getvalue().splitlines()][-1],
        "seconds": round(time.process_time() - started, 1),
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
    }


if __name__ == "__main__":
    signal.signal(signal.SIGPROF, stop)
    for words in json.loads(Path(sys.argv[1]).read_text()):
        print(json.dumps(run(words)), flush=True)
