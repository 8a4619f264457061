"""Which tokenizer made a code: a hash of everything that decides it."""

import itertools
import json
from collections.abc import Callable, Iterable

from torch import Tensor
from transformers import PreTrainedModel

from runtime.files import fingerprint
from tokenizer.model.configuration_semhitok import SemHiTokConfig

# The decoders are left out: the Enhance Decoder reads the same codes as the plain one.
_PARTS = (
    "teacher.",
    "semantic_encoder.",
    "semantic_codebook.",
    "pixel_encoder.",
    "pixel_sub_codebooks.",
)
# What the shapes of the weights do not tell.
_FIELDS = (
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
# Left out at their defaults, which held before these fields existed: older codes stay valid.
_LATER_FIELDS = {"code_structure": "hierarchical", "teacher_dtype": "float32"}
_TEACHER_FIELDS = ("num_attention_heads", "hidden_act", "layer_norm_eps")


def code_fingerprint(model: PreTrainedModel) -> str:
    """Hex SHA-256 of the weights and config fields by which a `SemHiTokModel` encodes images."""
    state = model.state_dict()
    return fingerprint_of_weights(model.config, state, state.__getitem__)


def fingerprint_of_weights(
    config: SemHiTokConfig, names: Iterable[str], read: Callable[[str], Tensor]
) -> str:
    """The same for a model on disk, or one held in another precision than it was saved in.

    `names` are those of its weights, and `read` returns the weight of a name.
    """
    if config.half == "decoder":  # it has no encoder to hash, and carries the whole model's
        return config.code_fingerprint
    fields = [getattr(config, name) for name in _FIELDS]
    fields += [getattr(config.teacher_config, name, None) for name in _TEACHER_FIELDS]
    for name, default in _LATER_FIELDS.items():
        value = getattr(config, name)
        fields += [value] if value != default else []
    weights = (
        part
        for name in sorted(names)
        if name.startswith(_PARTS)
        for part in (name, read(name).detach().cpu().float().contiguous().numpy().tobytes())
    )
    # As JSON, in which a tuple reads like the list that it is saved as.
    return fingerprint(itertools.chain([json.dumps(fields)], weights))
