"""Which tokenizer made a code: a hash over everything that decides it."""

import hashlib

from tokenizer.modeling_semhitok import SemHiTokModel

# The decoders are left out: the Enhance Decoder reads the same codes as the plain one.
_PARTS = (
    "teacher.",
    "semantic_encoder.",
    "semantic_codebook.",
    "pixel_encoder.",
    "pixel_sub_codebooks.",
)


def code_fingerprint(model: SemHiTokModel) -> str:
    """Hex SHA-256 over the weights, and sizes, that turn images into codes."""
    digest = hashlib.sha256()
    config = model.config
    digest.update(f"{config.image_size} {config.patch_size} {config.teacher_layer}".encode())
    for name, tensor in sorted(model.state_dict().items()):
        if name.startswith(_PARTS):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
