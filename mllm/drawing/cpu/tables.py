"""Results that depend on image codes alone, precomputed as tables; and image heads that use them.

The time of a small model's step is its number of calls, and look-ups save calls. A large model
would need large tables and gain nothing: it keeps its modules, prepacked where that is worthwhile.

Shapes: n rows, D width, K semantic codes, M pixel codes each, N image positions.
"""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init

from mllm.drawing.cpu.prepacked import PrepackedLinear
from mllm.model.heads import FlatHead, HierarchicalHead
from mllm.model.modeling_unified import UnifiedModel
from tokenizer.model.fused import copy_with_linears
from tokenizer.model.modeling_semhitok import SemHiTokModel

MAX_NUMBERS = 2**22  # of a table; 16 MB in float32
MAX_UNROLLED = 32  # terms of a sum written out for a compiler


class EmbeddingTable:
    """The adapter's embedding of each code, and of each image position."""

    @torch.no_grad()
    def __init__(self, model: UnifiedModel):
        adapter, device = model.adapter, model.device
        codes = torch.arange(model.vocabulary.num_image_codes, device=device)
        self.codes = adapter(codes, model.image_tokenizer, torch.zeros_like(codes))
        self.positions: Tensor | None = None
        if adapter.grid_size is not None:
            every = torch.arange(model.config.num_image_positions, device=device)
            first = adapter(torch.zeros_like(every), model.image_tokenizer, every)
            # Row 0 of the table of codes has the embedding of position 0 in it.
            self.positions = first - self.codes[0]

    def __call__(self, codes: Tensor, positions: Tensor) -> Tensor:
        """(n, D) embeddings of flat `codes` at image `positions`, (n,) each."""
        embeddings = self.codes.index_select(0, codes)
        if self.positions is None:
            return embeddings
        return embeddings + self.positions.index_select(0, positions)


def make_embedding(model: UnifiedModel, adapter: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """(n, D) embeddings of (n,) flat codes at (n,) positions: a table, or, where that would be
    large, the model's adapter in the form that serves large models."""
    numbers = model.vocabulary.num_image_codes * model.config.text_config.hidden_size
    if numbers <= MAX_NUMBERS:
        return EmbeddingTable(model)
    dtype = model.get_input_embeddings().weight.dtype
    return lambda codes, positions: adapter(codes, model.image_tokenizer, positions).to(dtype)


class TabledHead:
    """A hierarchical head with all that depends on the codes alone in tables."""

    @torch.no_grad()
    def __init__(self, head: HierarchicalHead, image_tokenizer: SemHiTokModel):
        self.rows = head.rows
        every = torch.arange(head.rows.out_features, device=head.rows.weight.device)
        semantic = image_tokenizer.semantic_codebook.lookup(every).to(head.rows.weight.dtype)
        first: Any
        second: Any
        first, self.activation, second = head.query
        self.first = first
        self.of_semantic = F.linear(head.semantic_embedding(semantic), first.weight)  # (K, D)
        scale = head.key.out_features**-0.5
        keys = head.key.weight.T * scale  # (D_pixel, D)
        self.query = (keys @ second.weight).contiguous()
        self.query_bias = keys @ second.bias
        groups = image_tokenizer.pixel_groups(every)
        codes = image_tokenizer.pixel_sub_codebooks
        self.vectors = codes.normalize(codes.codes[groups]).to(semantic.dtype)  # (K, M, D_pixel)
        self.bias = head.pixel_bias

    def semantic_scores(self, hidden: Tensor) -> Tensor:
        """See `HierarchicalHead`."""
        return self.rows(hidden).float()

    def pixel_scores(self, hidden: Tensor, semantic_codes: Tensor, _: SemHiTokModel) -> Tensor:
        """See `HierarchicalHead`; equal to rounding."""
        inner = self.first(hidden) + self.of_semantic.index_select(0, semantic_codes)
        query = F.linear(self.activation(inner), self.query, self.query_bias)
        vectors = self.vectors.index_select(0, semantic_codes)
        scores = (query.unsqueeze(1) * vectors).sum(-1)
        return (scores + self.bias.index_select(0, semantic_codes)).float()


class PrepackedFlatHead:
    """A flat head with a prepacked matrix, its rows ordered by pixel code first.

    Scores of one semantic code then lie K apart, and the sum over them is one of long rows: it
    takes half the time of so many short sums.
    """

    @torch.no_grad()
    def __init__(self, head: FlatHead, compiled: bool = False):
        self.num_pixel_codes = head.num_pixel_codes
        self.pixel_scores = head.pixel_scores
        weight = head.rows.weight.unflatten(0, (-1, head.num_pixel_codes))
        rows = skip_init(nn.Linear, weight.shape[-1], head.rows.out_features, bias=False)
        rows.weight = nn.Parameter(weight.transpose(0, 1).flatten(0, 1), requires_grad=False)
        self.rows = PrepackedLinear(rows, keep_matrix=compiled)

    def flat_scores(self, hidden: Tensor) -> Tensor:
        """See `FlatHead`."""
        return self._by_pixel_code(hidden).transpose(1, 2)

    def semantic_scores(self, hidden: Tensor) -> Tensor:
        """See `FlatHead`; equal to rounding."""
        scores = self._by_pixel_code(hidden)
        if torch.compiler.is_compiling() and self.num_pixel_codes <= MAX_UNROLLED:
            return _unrolled_logsumexp(scores.unbind(1))
        most = scores.amax(1, keepdim=True)
        most = most.masked_fill(most.isinf(), 0)  # inf - inf would be NaN
        return scores.sub_(most).exp_().sum(1).log_().add_(most.squeeze(1))

    def _by_pixel_code(self, hidden: Tensor) -> Tensor:
        """(n, M, K), new."""
        return self.rows(hidden).float().unflatten(-1, (self.num_pixel_codes, -1))


def _unrolled_logsumexp(scores: Sequence[Tensor]) -> Tensor:
    """Element by element over the tensors: a compiler makes one loop of it, where the reduction of
    an axis becomes two, which take thrice the time."""
    most = reduce(torch.maximum, scores)
    most = most.masked_fill(most.isinf(), 0)
    total = reduce(torch.add, [(one - most).exp() for one in scores])
    return total.log() + most


def make_head(
    model: UnifiedModel, prepacked: bool, compiled: bool
) -> FlatHead | HierarchicalHead | TabledHead | PrepackedFlatHead:
    """The model's head in the quickest form that its size allows; arguments as of `Parts` and
    `make_parts`."""
    head, image_tokenizer = model.image_head, model.image_tokenizer
    plain = type(head.rows) is nn.Linear
    if isinstance(head, FlatHead):
        return PrepackedFlatHead(head, compiled) if plain and prepacked else head
    width = head.rows.in_features
    numbers = len(head.pixel_bias) * max(width, head.pixel_bias.shape[1] * head.key.in_features)
    if plain and type(head.query[2]) is nn.Linear and numbers <= MAX_NUMBERS:
        return TabledHead(head, image_tokenizer)
    return copy_with_linears(head, PrepackedLinear) if prepacked else head
