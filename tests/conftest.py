"""Tests run offline, whichever way pytest is started, and GPU tests only where there is a GPU."""

import ctypes
import os
import random
import sys
from operator import attrgetter

import pytest
from tqdm.std import TqdmDefaultWriteLock

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# Progress bars share a semaphore with every fork: a process that a test kills while it writes to
# one would stop all later bars of the whole run. Threads go on to share their own lock.
TqdmDefaultWriteLock.mp_lock = None


@pytest.hookimpl(tryfirst=True)  # before the fixtures of larger scopes
def pytest_runtest_setup() -> None:
    """Chance does not depend on the tests before, which two workers share out by their speed."""
    random.seed(0)
    ctypes.CDLL(None).srand(1)  # of Pillow's noise
    for name, seed in (("numpy", "random.seed"), ("torch", "manual_seed")):
        if name in sys.modules:  # the fast tests of the plumbing need no torch
            attrgetter(seed)(sys.modules[name])(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_items:
        return
    import torch  # late: the fast tests of the plumbing need no torch

    if not torch.cuda.is_available():
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
