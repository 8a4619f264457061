"""The SemHiTok image tokenizer: `SemHiTokModel`, `SemHiTokConfig`, `SemHiTokImageProcessor`.

Names are imported when first used, so that the command line stays quick. The first one registers
them all with transformers: after `from tokenizer import SemHiTokModel` the Auto classes load a
saved folder.

Rooms, each of which imports only those to its right:
training | extraction → losses → saved → codebooks → model.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizer.model.configuration_semhitok import SemHiTokConfig
    from tokenizer.model.image_processing_semhitok import SemHiTokImageProcessor
    from tokenizer.model.modeling_semhitok import ImageCodes, SemHiTokModel

_MODULES = {
    "ImageCodes": "modeling_semhitok",
    "SemHiTokConfig": "configuration_semhitok",
    "SemHiTokImageProcessor": "image_processing_semhitok",
    "SemHiTokModel": "modeling_semhitok",
}

__all__ = ["ImageCodes", "SemHiTokConfig", "SemHiTokImageProcessor", "SemHiTokModel"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import_module("tokenizer.model.modeling_semhitok")  # which imports the other two
    return getattr(import_module(f"tokenizer.model.{_MODULES[name]}"), name)
