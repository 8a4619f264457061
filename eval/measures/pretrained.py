"""Other people's networks by name, as judges and measures: loaded, frozen, on the best device."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from runtime.errors import UserError, says
from tokenizer.saved.model_folder import refuse_nonfinite


def load_pretrained(what: str, name: str, hint: str, *classes: Any) -> list[Any]:
    """`from_pretrained` of each class of transformers, by a hub name or folder.

    Raises:
        UserError: if any of them cannot be loaded, or has weights that are not finite: `what`, such
            as "detector", is named, and `hint` says what to give instead.
    """
    try:
        loaded = [each.from_pretrained(name) for each in classes]
    except Exception as error:  # transformers lets a dozen kinds out, of hub, JSON and weights
        text = f"No {what} can be loaded from {name!r}: {hint} ({says(error)})."
        raise UserError(text) from error
    for network in loaded:
        if isinstance(network, nn.Module):
            refuse_nonfinite(network, f"the {what} {name!r}")
    return loaded


def frozen(network: Any) -> Any:
    """In inference mode, on a GPU where there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return network.to(device).eval().requires_grad_(False)


def short_name(name: str) -> str:
    """What stands beside a score: the hub name, or the folder's own."""
    return Path(name).name if Path(name).is_dir() else name
