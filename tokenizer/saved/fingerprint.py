"""Which tokenizer made a code: a hash over everything that decides it."""

import hashlib
import json
from collections.abc import Callable, Iterable

from torch import Tensor

from tokenizer.model.configuration_semhitok import SemHiTokConfig
from tokenizer.model.modeling_semhitok import SemHiTokModel

# The decoders are left out: the Enhance Decoder reads the same codes as the plain one.
_PARTS = (
    "teacher.",
    "semantic_encoder.",
    "semantic_codebook.",
    "pixel_encoder.",
    "pixel_sub_codebooks.",
)
# What the shapes of the weights do not tell.
_SETTINGS = (
    "image_size",
    "patch_size",
    "teacher_layer",
    "teacher_mean",
    "teacher_std",
    "semantic_metric",
    "pixel_metric",
    "semantic_attention_heads",
    "pixel_attention_heads",
)
# Left out at their defaults, which held before they were settings: older codes stay valid.
_LATER_SETTINGS = {"code_structure": "hierarchical", "teacher_dtype": "float32"}
_TEACHER_SETTINGS = ("num_attention_heads", "hidden_act", "layer_norm_eps")


def code_fingerprint(model: SemHiTokModel) -> str:
    """Hex SHA-256 over the weights, and the settings, that turn images into codes."""
    state = model.state_dict()
    return fingerprint_of_weights(model.config, state, state.__getitem__)


def fingerprint_of_weights(
    config: SemHiTokConfig, names: Iterable[str], read: Callable[[str], Tensor]
) -> str:
    """The same of a model that is on disk, or held in another precision than it was saved in.

    Args:
        config: of the tokenizer.
        names: of its weights.
        read: gives the weight of a name.
    """
    if config.half == "decoder":  # has not what decides, and carries the whole's
        return config.code_fingerprint
    digest = hashlib.sha256()
    settings = [getattr(config, name) for name in _SETTINGS]
    settings += [getattr(config.teacher_config, name, None) for name in _TEACHER_SETTINGS]
    for name, default in _LATER_SETTINGS.items():
        value = getattr(config, name)
        settings += [value] if value != default else []
    digest.update(json.dumps(settings).encode())  # a tuple and the list it is saved as read alike
    for name in sorted(names):
        if name.startswith(_PARTS):
            digest.update(name.encode())
            digest.update(read(name).detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
