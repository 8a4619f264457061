"""Which process of a distributed run may write and print, known before torch is imported."""

import os


def is_main_rank() -> bool:
    """Whether this process is rank 0; torchrun, accelerate and deepspeed all set `RANK`."""
    return os.environ.get("RANK", "0") == "0"
