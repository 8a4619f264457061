"""The SemHiTok image tokenizer: `SemHiTokModel`, `SemHiTokConfig`, `ImageCodes`.

Names are imported when first used, so that the command line stays quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizer.configuration_semhitok import SemHiTokConfig
    from tokenizer.image_processing_semhitok import SemHiTokImageProcessor
    from tokenizer.modeling_semhitok import ImageCodes, SemHiTokModel

_HOMES = {
    "SemHiTokConfig": "tokenizer.configuration_semhitok",
    "SemHiTokImageProcessor": "tokenizer.image_processing_semhitok",
    "SemHiTokModel": "tokenizer.modeling_semhitok",
    "ImageCodes": "tokenizer.modeling_semhitok",
}

__all__ = ["ImageCodes", "SemHiTokConfig", "SemHiTokImageProcessor", "SemHiTokModel"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
