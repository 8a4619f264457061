"""Initial weights that are not random: of patch embeddings and decoders."""

import itertools

import numpy as np
import torch
from scipy.fft import dct
from torch import nn

from runtime.errors import UserError
from tokenizer.model.pixel_networks import CodeDecoder


@torch.no_grad()
def start_from_cosines(weight: nn.Parameter) -> None:
    """Fill a patch embedding with the lowest frequencies of the discrete cosine transform.

    Args:
        weight: (D, 3, p, p); filter r sees one colour channel at one pair of frequencies.
    """
    patch_size = weight.shape[-1]
    basis = torch.from_numpy(dct(np.eye(patch_size), norm="ortho", axis=0)).to(weight.dtype)
    sides = range(patch_size)
    frequencies = sorted(itertools.product(sides, sides, range(3)), key=lambda f: f[0] + f[1])
    nn.init.zeros_(weight)
    for row, (u, v, channel) in zip(weight, frequencies, strict=False):
        row[channel] = torch.outer(basis[u], basis[v])


@torch.no_grad()
def grow_decoder(plain: nn.Module, deeper: nn.Module) -> None:
    """Start the deeper decoder as the same function as the plain one.

    Shared layers are copied; the other blocks start by adding nothing to the residual stream.
    Neither may be convolutional, or of another width, nor the deeper one have fewer layers.
    """
    if not (isinstance(plain, CodeDecoder) and isinstance(deeper, CodeDecoder)):
        raise UserError(
            "only an Enhance Decoder of kind 'vit' can start from a plain one of that kind; set "
            "both kinds to 'vit', or start_from_decoder to false"
        )
    shared, own = plain.state_dict(), deeper.state_dict()
    if misfits := [k for k, v in shared.items() if k not in own or own[k].shape != v.shape]:
        raise UserError(
            f"the Enhance Decoder cannot start from the plain decoder, whose {misfits[0]} has "
            f"another shape; give both one width, or set start_from_decoder to false"
        )
    deeper.load_state_dict({**own, **shared})
    for block in deeper.trunk.blocks.layers[len(plain.trunk.blocks.layers) :]:
        for last in (block.self_attn.out_proj, block.mlp.fc2):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
