"""One half of a tokenizer by itself: the encoder for reading images, the decoder for drawing.

semhitok export-tokenizer --tokenizer DIR --half encoder --out DIR
"""

from pathlib import Path
from typing import Literal

import torch

from tokenizer.model.configuration_semhitok import SemHiTokConfig
from tokenizer.model.fingerprint import code_fingerprint
from tokenizer.model.modeling_semhitok import SemHiTokModel
from tokenizer.saved.model_folder import load_tokenizer, save_tokenizer
from tokenizer.saved.settings import ExportTokenizerSettings


def export_tokenizer(settings: ExportTokenizerSettings) -> Path:
    """Write one half of a whole tokenizer as a folder that loads by itself."""
    save_tokenizer(half_of(load_tokenizer(settings.tokenizer), settings.half), settings.out)
    return settings.out


def half_of(model: SemHiTokModel, half: Literal["encoder", "decoder"]) -> SemHiTokModel:
    """A model that can only encode, or only decode, and shares the weights of `model`.

    Both halves keep both codebooks. The encoder half has the teacher, the semantic and the pixel
    encoder; the decoder half has the decoder in use.
    """
    fields = model.config.to_dict() | {"half": half, "code_fingerprint": code_fingerprint(model)}
    with torch.device("meta"):  # the weights are shared, not copied
        part = SemHiTokModel(SemHiTokConfig(**fields))
    weights = model.state_dict()
    part.load_state_dict({name: weights[name] for name in part.state_dict()}, assign=True)
    own = {name for name, _ in part.named_buffers()}
    for name, buffer in model.named_buffers():  # those that are never saved
        if name in own:
            parent, _, leaf = name.rpartition(".")
            setattr(part.get_submodule(parent), leaf, buffer)
    return part.eval()
