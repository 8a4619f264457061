"""How much memory is left on this machine, so that too much is refused before it is taken.

Linux grants more than it has and kills whoever uses it; an allocation that fails is no safeguard.
"""

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

import psutil

from runtime.errors import UserError, says

_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def available_bytes() -> int:
    """Memory that this process may still take: the machine's, its container's, its own limit's."""
    limits = [psutil.virtual_memory().available]
    for limit, usage in _CGROUPS:
        with contextlib.suppress(OSError, ValueError):  # absent, or "max"
            limits.append(int(Path(limit).read_text()) - int(Path(usage).read_text()))
    own = psutil.Process().memory_info()
    for kind, name in ((resource.RLIMIT_AS, "vms"), (resource.RLIMIT_DATA, "data")):
        soft, _ = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY and hasattr(own, name):
            limits.append(soft - getattr(own, name))
    return max(0, min(limits))


def require_memory(needed: float, what: str, hint: str) -> None:
    """Refuse `what`, such as "a batch of 64 images", where its `needed` bytes would not fit.

    Raises:
        UserError: with both numbers, and the hint what to do instead.
    """
    available = available_bytes()
    if needed > available:
        raise UserError(
            f"{what} would take about {needed / 1e9:,.1f} GB of memory, and {available / 1e9:,.1f} "
            f"GB are available; {hint}"
        )


@contextlib.contextmanager
def memory_errors(hint: str) -> Iterator[None]:
    """Turn a failed allocation, on a GPU or on the CPU, into a sentence with a hint.

    Raises:
        UserError: for such a failure; other errors pass.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error).lower()
        if isinstance(error, MemoryError) or "out of memory" in text or "allocate memory" in text:
            raise UserError(f"there is too little memory ({says(error)}); {hint}") from error
        raise
