"""Moments to kill a process at, told by what it has written: a clock knows no machine's speed."""

import os
from multiprocessing.process import BaseProcess
from pathlib import Path


def num_files(folder: Path) -> int:
    """Files below a folder, in which others write and delete meanwhile."""
    return sum(len(names) for _, _, names in os.walk(folder))


def wait_for_files(process: BaseProcess, folder: Path, count: int, pause: float) -> None:
    """Wait until `count` files are there and `pause` seconds more, or for the process to end."""
    while process.is_alive() and num_files(folder) < count:
        process.join(0.001)
    process.join(pause)
