"""The unified language model: `UnifiedForConditionalGeneration`, `UnifiedProcessor`.

Names are imported when first used, so that the command line stays quick. The first one brings all,
and registers them with transformers: then its Auto classes and `pipeline("any-to-any")` load a
saved folder.

Rooms, each of which imports only those to its right:
serving | training → planning → phase | init → saved → drawing | data → model.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mllm.drawing.public_model import UnifiedForConditionalGeneration
    from mllm.model.configuration_unified import UnifiedConfig
    from mllm.model.processing_unified import UnifiedProcessor

_HOMES = {
    "UnifiedConfig": "mllm.model.configuration_unified",
    "UnifiedForConditionalGeneration": "mllm.drawing.public_model",
    "UnifiedProcessor": "mllm.model.processing_unified",
}

__all__ = ["UnifiedConfig", "UnifiedForConditionalGeneration", "UnifiedProcessor"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    homes = {home: import_module(home) for home in _HOMES.values()}
    return getattr(homes[_HOMES[name]], name)
