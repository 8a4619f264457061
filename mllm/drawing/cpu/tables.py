"""What drawing computes again and again of a model's codes, computed once.

Of a small model a step's time is the number of calls. What is a function of the code alone becomes
a table, where the table is small; a large model keeps its modules, whose calls cost it nothing, in
an order that suits the machine.

Shapes: n rows, D width, K semantic codes, M pixel codes each, N image positions.
"""

from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init

from mllm.drawing.cpu.prepacked import PackedLinear, with_packed_linears
from mllm.model.heads import FlatHead, HierarchicalHead
from tokenizer.model.modeling_semhitok import SemHiTokModel

if TYPE_CHECKING:
    from mllm.model.modeling_unified import UnifiedModel

MAX_NUMBERS = 2**22  # 16 MB in float32
MAX_UNROLLED = 32  # terms of a sum written out for a compiler


class EmbeddingTable:
    """The adapter's values: of each code, and of each place."""

    @torch.no_grad()
    def __init__(self, model: "UnifiedModel"):
        adapter, device = model.adapter, model.device
        codes = torch.arange(model.vocabulary.num_image_codes, device=device)
        first = torch.zeros_like(codes)
        self.codes = adapter(codes, model.image_tokenizer, first)
        self.places: Tensor | None = None
        if adapter.grid_size is not None:
            places = torch.arange(model.config.num_image_positions, device=device)
            zeros = torch.zeros_like(places)
            # Row 0 of the table of codes has the embedding of place 0 in it.
            self.places = adapter(zeros, model.image_tokenizer, places) - self.codes[0]

    def __call__(self, codes: Tensor, places: Tensor) -> Tensor:
        """(n, D) embeddings of flat `codes` at `places`, (n,) each."""
        embeddings = self.codes.index_select(0, codes)
        if self.places is None:
            return embeddings
        return embeddings + self.places.index_select(0, places)


def make_table(model: "UnifiedModel") -> EmbeddingTable | None:
    """None where the table would be large."""
    numbers = model.vocabulary.num_image_codes * model.config.text_config.hidden_size
    return EmbeddingTable(model) if numbers <= MAX_NUMBERS else None


class ReadyHead:
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


class PackedFlatHead:
    """A flat head with packed rows, by pixel code first.

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
        self.rows = PackedLinear(rows, keep_matrix=compiled)

    def flat_scores(self, hidden: Tensor) -> Tensor:
        """See `FlatHead`."""
        return self._by_pixel_code(hidden).transpose(1, 2)

    def semantic_scores(self, hidden: Tensor) -> Tensor:
        """See `FlatHead`; equal to rounding."""
        scores = self._by_pixel_code(hidden)
        if torch.compiler.is_compiling() and self.num_pixel_codes <= MAX_UNROLLED:
            return _summed(scores.unbind(1))
        most = scores.amax(1, keepdim=True)
        most = most.masked_fill(most.isinf(), 0)  # inf - inf would be no number
        return scores.sub_(most).exp_().sum(1).log_().add_(most.squeeze(1))

    def _by_pixel_code(self, hidden: Tensor) -> Tensor:
        """(n, M, K), new."""
        return self.rows(hidden).float().unflatten(-1, (self.num_pixel_codes, -1))


def _summed(scores: Sequence[Tensor]) -> Tensor:
    """Log of the sum of exponentials, element by element: one loop, where a compiler makes of the
    reduction of an axis two, which take thrice the time."""
    most = reduce(torch.maximum, scores)
    most = most.masked_fill(most.isinf(), 0)
    total = reduce(torch.add, [(one - most).exp() for one in scores])
    return total.log() + most


def ready_head(
    model: "UnifiedModel", packed: bool = False, compiled: bool = False
) -> FlatHead | HierarchicalHead | ReadyHead | PackedFlatHead:
    """The model's head in the quickest form that its size allows.

    Args:
        model: in eval mode.
        packed: multiply by copies of its matrices, see `mllm.drawing.cpu.prepacked`.
        compiled: keep what a compiler reads of packed matrices.
    """
    head, image_tokenizer = model.image_head, model.image_tokenizer
    plain = type(head.rows) is nn.Linear
    if isinstance(head, FlatHead):
        return PackedFlatHead(head, compiled) if plain and packed else head
    width = head.rows.in_features
    numbers = len(head.pixel_bias) * max(width, head.pixel_bias.shape[1] * head.key.in_features)
    plain = plain and type(head.query[2]) is nn.Linear
    if plain and numbers <= MAX_NUMBERS:
        return ReadyHead(head, image_tokenizer)
    return with_packed_linears(head) if packed else head
