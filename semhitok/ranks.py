"""Which process of a distributed run may write and print, known before torch is imported."""

import os

from semhitok.errors import UserError


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
            first = int(os.environ.get("SLURM_ARRAY_TASK_MIN", "0"))
            rank = int(os.environ["SLURM_ARRAY_TASK_ID"]) - first
            world = int(os.environ.get("SLURM_ARRAY_TASK_COUNT", "1"))
        else:
            return 0, 1
    except ValueError as error:
        raise UserError(
            f"the rank in the environment is no number ({error}): set RANK and WORLD_SIZE"
        ) from error
    if not 0 <= rank < world:
        raise UserError(f"rank {rank} is not in a world of {world}: set RANK and WORLD_SIZE")
    return rank, world
