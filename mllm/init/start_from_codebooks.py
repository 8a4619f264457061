"""New weights of a unified model begin from the image tokenizer's codebooks.

Similar codes are then read and written alike before the first step, image tokens enter as large as
the language model's own tokens, and the first scores of codes are near chance. With random weights
those scores would be the more confident the longer the language model's hidden states are.

Shapes: K semantic codes, M pixel codes each, D width of the language model.
"""

from typing import Any

import torch
from torch import Tensor, nn

from mllm.model.adapter import DualMLPAdapter, PlainRows
from mllm.model.modeling_unified import UnifiedModel
from tokenizer.model.modeling_semhitok import ImageCodes

CHUNK = 8192  # codes at once
MEASURED = 8192  # codes over which means and spreads are taken
SPREAD = 0.5  # of the scores of codes that one hidden state gives at the start; ours
PROBED = 64  # tokens over which the length of hidden states is taken


@torch.no_grad()
def start_from_codebooks(model: UnifiedModel, seed: int) -> None:
    """Set the adapter and the rows of the image head, in place, when the image tokenizer and the
    language model are there; `seed` is that of the projections from code vectors to rows."""
    embedding = model.get_input_embeddings()
    scale = getattr(embedding, "embed_scale", 1.0)  # of Gemma
    embeddings = embedding.get_parameter("weight") * scale
    mean = embeddings.mean(0)
    spread = (embeddings - mean).square().mean().sqrt()
    adapter = model.adapter
    if isinstance(adapter, PlainRows):
        _project(model, adapter.codes.weight, float(spread), seed)
        adapter.codes.weight += mean
    else:
        _fit(model, adapter, mean, spread)
    # Under rows whose numbers have the spread s, a hidden state of length |h| has scores of spread
    # s·|h|.
    _project(model, model.image_head.rows.weight, SPREAD / _hidden_length(model), seed + 1)


def _project(model: UnifiedModel, rows: Tensor, spread: float, seed: int) -> None:
    """Write rows (K·M or K, D) that are a random projection of the vectors of their codes, flat or
    semantic; `spread` is the root mean square of the numbers.

    Distances between rows are those between code vectors (Johnson and Lindenstrauss, 1984).
    """
    flat = len(rows) == model.vocabulary.num_image_codes
    sample = _vectors(model, _some(len(rows)), flat)
    means, widths = sample.mean(0), _widths(model, sample)
    generator = torch.Generator().manual_seed(seed)
    dim, width = sample.shape[1], rows.shape[1]
    projection = torch.randn(dim, width, generator=generator) / dim**0.5
    for first in range(0, len(rows), CHUNK):
        codes = torch.arange(first, min(first + CHUNK, len(rows)))
        vectors = (_vectors(model, codes, flat) - means) / widths
        rows[first : first + CHUNK] = spread * (vectors @ projection)


def _vectors(model: UnifiedModel, codes: Tensor, flat: bool) -> Tensor:
    """(n, D_semantic + D_pixel) vectors of flat codes, or (n, D_semantic) of semantic ones."""
    image_tokenizer = model.image_tokenizer
    if not flat:
        return image_tokenizer.semantic_codebook.lookup(codes)
    num_pixel_codes = model.vocabulary.num_pixel_codes
    return image_tokenizer.code_vectors(ImageCodes.from_flat(codes, num_pixel_codes))


def _widths(model: UnifiedModel, vectors: Tensor) -> Tensor:
    """The spread of each half of the vectors, repeated over its width, so that both count alike."""
    dim = model.config.image_tokenizer_config.semantic_code_dim
    halves = [half for half in (vectors[:, :dim], vectors[:, dim:]) if half.shape[1]]
    spreads = [(half - half.mean(0)).square().mean().sqrt().clamp_min(1e-6) for half in halves]
    return torch.cat([s.expand(h.shape[1]) for s, h in zip(spreads, halves, strict=True)])


def _some(number: int) -> Tensor:
    """Codes spread evenly over all `number` of them."""
    return torch.linspace(0, number - 1, min(number, MEASURED)).long()


def _fit(model: UnifiedModel, adapter: DualMLPAdapter, mean: Tensor, spread: Tensor) -> None:
    """Scale each branch's layers: unit size after the first, text embeddings' after the last.

    As LSUV (Mishkin and Matas, arXiv 1511.06422), with all codes for a batch.
    """
    vectors = _vectors(model, _some(model.vocabulary.num_image_codes), flat=True)
    dim = model.config.image_tokenizer_config.semantic_code_dim
    branches: list[tuple[nn.Sequential, Tensor, Tensor]] = [
        (adapter.semantic, vectors[:, :dim], mean[: adapter.semantic[2].out_features]),
        (adapter.pixel, vectors[:, dim:], mean[adapter.semantic[2].out_features :]),
    ]
    for branch, inputs, wanted in branches:
        first: Any
        last: Any
        first, activation, last = branch
        _fit_layer(first, inputs, torch.zeros(()), torch.ones(()))
        _fit_layer(last, activation(first(inputs)), wanted, spread)


def _fit_layer(layer: nn.Linear, inputs: Tensor, mean: Tensor, spread: Tensor) -> None:
    """Scale and shift a layer, so that its outputs over `inputs` have this mean and spread."""
    products = inputs @ layer.weight.T
    centre = products.mean(0)
    scale = spread / (products - centre).square().mean().sqrt().clamp_min(1e-6)
    layer.weight *= scale
    layer.bias.copy_(mean - scale * centre)


def _hidden_length(model: UnifiedModel) -> float:
    """|h|, the length of the hidden states that heads score, over a sequence of text tokens."""
    was_training = model.training
    model.eval()
    token_ids = torch.arange(PROBED).remainder(model.vocabulary.offset).unsqueeze(0)
    hidden = model(token_ids).last_hidden_state
    model.train(was_training)
    return float(hidden.square().sum(-1).mean().sqrt())
