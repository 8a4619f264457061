"""How a process ends, alone and as one of a distributed run."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import atexit
from runtime.ranks import leave

class Late:
    def __del__(self):
        print("finalized")

late = Late()
atexit.register(print, "exit function")
print("written", end=" ")
leave(2)
"""


@pytest.mark.parametrize("rank", [None, "0"])
def test_all_is_written_and_the_exit_code_is_kept(rank):
    environment = {name: value for name, value in os.environ.items() if name != "RANK"}
    if rank is not None:
        environment["RANK"] = rank
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True
    )
    assert finished.returncode == 2 and finished.stderr == ""
    lines = finished.stdout.splitlines()
    # A rank ends without finalization, in which threads of gloo may abort it.
    assert lines == ["written exit function"] + ["finalized"] * (rank is None)
