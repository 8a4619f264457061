"""Ports for the ranks of a test to meet at."""

import contextlib
import os
import socket
from itertools import count

FIRST, EACH = 20_000, 1_000
"""Below the ports that the system gives to those who ask for any, and as many for each worker."""

_tried = count(os.getpid())  # processes of other test runs begin elsewhere


def free_port() -> int:
    """A port that nobody listens at, and that neither the system nor another worker will give away.

    One that the system gave (`bind` to port 0) may be given to somebody else before it is used.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    for _ in range(EACH):
        port = FIRST + worker % 10 * EACH + next(_tried) % EACH
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("", port))
            return port
    raise OSError("all ports are taken")
