"""Which process of a distributed run may write and print, known before torch is imported."""

import atexit
import os
import sys
from typing import NoReturn

from runtime.errors import UserError


def is_main_rank() -> bool:
    """Whether this process is rank 0; torchrun, accelerate and deepspeed all set `RANK`."""
    return os.environ.get("RANK", "0") == "0"


def rank_and_world() -> tuple[int, int]:
    """This process's rank and how many there are, where they never talk to each other.

    torchrun and its like set RANK and WORLD_SIZE; the tasks of a SLURM job array are told by
    SLURM_ARRAY_TASK_ID and its bounds.

    Raises:
        UserError: if the numbers do not fit each other.
    """
    try:
        if "RANK" in os.environ:
            rank, world = int(os.environ["RANK"]), int(os.environ.get("WORLD_SIZE", "1"))
        elif "SLURM_ARRAY_TASK_ID" in os.environ:
            rank, world = _array_task()
        else:
            return 0, 1
    except ValueError as error:
        raise UserError(
            f"the rank in the environment is no number ({error}): set RANK and WORLD_SIZE"
        ) from error
    if not 0 <= rank < world:
        raise UserError(f"rank {rank} is not in a world of {world}: set RANK and WORLD_SIZE")
    return rank, world


def _array_task() -> tuple[int, int]:
    """This task's place in its SLURM job array, and how many tasks it has."""
    first = int(os.environ.get("SLURM_ARRAY_TASK_MIN", "0"))
    world = int(os.environ.get("SLURM_ARRAY_TASK_COUNT", "1"))
    step = max(1, int(os.environ.get("SLURM_ARRAY_TASK_STEP", "1")))
    last = first + (world - 1) * step
    # Of a list such as 1,3,7 a task sees no more than its bounds, and all must refuse it alike.
    if int(os.environ.get("SLURM_ARRAY_TASK_MAX", last)) != last:
        raise UserError(
            "the task numbers of this SLURM array have gaps, so that a task cannot tell its share: "
            "submit a range, such as --array 0-7"
        )
    return (int(os.environ["SLURM_ARRAY_TASK_ID"]) - first) // step, world


def leave(code: int) -> NoReturn:
    """End this process with the exit code `code`, all its output written.

    A process of a distributed run ends without Python's finalization. DeepSpeed keeps process
    groups alive beyond their destruction, and a worker thread of gloo that still lets go of a
    tensor while the interpreter is taken down aborts the process ("terminate called without an
    active exception", SIGABRT): a run that has saved everything would be reported as failed.
    """
    if "RANK" in os.environ:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
