"""Refuses work that would take more memory than there is, before it begins."""

import resource
from pathlib import Path

from runtime.errors import UserError


def require_memory(num_bytes: int, what: str, hint: str) -> None:
    """Refuse what does not fit into memory.

    Args:
        num_bytes: that the work takes.
        what: is held, for the error: "200 images at 256²".
        hint: what to do instead: "give fewer --shuffles".

    Raises:
        UserError: if it is more than is available.
    """
    available = _available()
    if num_bytes > available:
        raise UserError(
            f"{what} take {num_bytes / 2**30:,.1f} GiB of memory, and {available / 2**30:,.1f} GiB "
            f"are available: {hint}."
        )


def _available() -> float:
    """Bytes that this process may still take; infinite where the system does not say."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    found = float("inf") if limit == resource.RLIM_INFINITY else float(limit)
    path = Path("/proc/meminfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    kilobytes = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return min([found, *(1024.0 * float(number) for number in kilobytes)])
