"""Other people's networks by name, as judges and measures: loaded, frozen, on the best device."""

from pathlib import Path
from typing import Any

import torch

from runtime.errors import UserError, says


def load_pretrained(what: str, name: str, hint: str, *classes: Any) -> list[Any]:
    """`from_pretrained(name)` of each class.

    Args:
        what: is loaded, for the error: "detector".
        name: hub name or folder.
        hint: what to give instead, for the error: "give ...".
        classes: of transformers.

    Raises:
        UserError: if any of them cannot be loaded.
    """

    try:
        return [each.from_pretrained(name) for each in classes]
    except Exception as error:  # transformers lets a dozen kinds out, of hub, JSON and weights
        raise UserError(
            f"No {what} can be loaded from {name!r}: {hint} ({says(error)})."
        ) from error


def frozen(network: Any) -> Any:
    """In inference mode, on a GPU where there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return network.to(device).eval().requires_grad_(False)


def short_name(name: str) -> str:
    """What stands beside a score: the hub name, or the folder's own."""
    return Path(name).name if Path(name).is_dir() else name
