"""A codebook in groups: the one look-up behind both levels of the hierarchy.

The semantic codebook is one group of K codes. The pixel sub-codebooks are K groups of M codes, and
the group of a patch is its semantic code, so a look-up costs K + M distances and never K·M. Scores
are made a chunk of vectors at a time, so that memory does not grow with the batch. The flat
codebook that the hierarchy is compared with joins both in one group.

Shapes: n vectors, G groups, C codes in each group, D code dimension.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Metric = Literal["cosine", "euclidean"]

# Numbers that a look-up holds at once: 64 MB in float32. Fewer are no faster on a CPU, and chunks
# of a few vectors are far slower: each product reads the whole codebook again.
MAX_SCORES = 2**24


class Quantized(NamedTuple):
    """What one look-up gives.

    Attributes:
        codes: (...) int64 in [0, C), local to the group.
        inputs: (..., D) the vectors looked up, in float32 and normalised for the metric.
        vectors: (..., D) code vectors; their gradient flows straight through to the input.
        commitment_loss: mean squared distance input → code; moves the encoder only.
        codebook_loss: the same value; moves the codes only.
    """

    codes: Tensor
    inputs: Tensor
    vectors: Tensor
    commitment_loss: Tensor
    codebook_loss: Tensor


class GroupedCodebook(nn.Module):
    """(G, C, D) code vectors, each vector looked up only among the C codes of its own group.

    Args:
        num_groups: G; 1 for a plain codebook.
        num_codes: C, codes in each group.
        code_dim: D.
        metric: "cosine" keeps codes and inputs on the unit sphere; "euclidean" leaves them.
    """

    def __init__(self, num_groups: int, num_codes: int, code_dim: int, metric: Metric = "cosine"):
        super().__init__()
        self.metric = metric
        # No gradient unless the codebook updater asks for it, which else writes the codes in place.
        self.codes = nn.Parameter(torch.empty(num_groups, num_codes, code_dim), requires_grad=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        nn.init.normal_(self.codes)
        self.codes.copy_(self.normalize(self.codes))

    def normalize(self, vectors: Tensor) -> Tensor:
        """Bring (..., D) vectors onto the unit sphere for "cosine"; in float32."""
        vectors = vectors.float()
        return F.normalize(vectors, dim=-1) if self.metric == "cosine" else vectors

    @torch.no_grad()
    def nearest(self, vectors: Tensor, groups: Tensor | None = None) -> Tensor:
        """Index of the nearest code within the group of each vector.

        Args:
            vectors: (..., D), already passed through `normalize`.
            groups: (...) int64 in [0, G); None when there is one group.

        Returns:
            (...) int64 in [0, C).
        """
        num_groups, num_codes, code_dim = self.codes.shape
        groups = None if groups is None or num_groups == 1 else groups.reshape(-1)
        shape = vectors.shape[:-1]
        # Explicit float32 with autocast off: half-precision distances pick wrong codes and diverge.
        with torch.autocast(vectors.device.type, enabled=False):
            vectors = vectors.float().reshape(-1, code_dim)
            table = self.normalize(self.codes[0]) if groups is None else self.codes
            # With one group each vector needs C scores; with several, a copy of its C codes.
            numbers_each = num_codes if groups is None else num_codes * code_dim
            rows = max(1, MAX_SCORES // numbers_each)
            codes = torch.empty(len(vectors), dtype=torch.int64, device=vectors.device)
            # One buffer for all chunks: fresh memory for each would cost a CPU as much time again.
            buffer = vectors.new_empty(min(rows, len(vectors)), num_codes)
            for start in range(0, len(vectors), rows):
                part = slice(start, start + rows)
                own = table if groups is None else self.normalize(table[groups[part]])
                room = buffer[: len(vectors[part])]
                codes[part] = self.scores(vectors[part], own, out=room).argmax(-1)
            return codes.view(shape)

    def scores(self, vectors: Tensor, table: Tensor, out: Tensor | None = None) -> Tensor:
        """How near each code is: half of |v|² - |v - c|², or v·c on the unit sphere.

        Args:
            vectors: (n, D), already passed through `normalize`.
            table: (C, D) for all vectors, or (n, C, D) with one for each; normalised too.
            out: where to write the result (n, C), highest for the nearest code, without gradient.
        """
        if table.dim() == 2:
            scores = torch.matmul(vectors, table.T, out=out)
        else:
            scores = torch.einsum("nd,ncd->nc", vectors, table)
        if self.metric == "euclidean":  # on the unit sphere the term is the same for all codes
            scores = torch.sub(scores, table.square().sum(-1) / 2, out=out)  # (C,) or (n, C)
        return scores

    def lookup(self, codes: Tensor, groups: Tensor | None = None) -> Tensor:
        """Code vectors (..., D) of integer `codes` (...) in `groups` (...)."""
        table = self.codes[0][codes] if groups is None else self.codes[groups, codes]
        return self.normalize(table)

    def assign(self, vectors: Tensor, groups: Tensor | None = None) -> Tensor:
        """Codes (...) of (..., D) vectors, without gradients and losses."""
        with torch.autocast(vectors.device.type, enabled=False):
            return self.nearest(self.normalize(vectors), groups)

    def forward(self, vectors: Tensor, groups: Tensor | None = None) -> Quantized:
        """Quantise (..., D) vectors; the gradient passes straight through the rounding."""
        with torch.autocast(vectors.device.type, enabled=False):
            normalized = self.normalize(vectors)
            codes = self.nearest(normalized.detach(), groups)
            chosen = self.lookup(codes, groups)
            return Quantized(
                codes=codes,
                inputs=normalized,
                vectors=normalized + (chosen - normalized).detach(),
                commitment_loss=F.mse_loss(normalized, chosen.detach()),
                codebook_loss=F.mse_loss(chosen, normalized.detach()),
            )


class JoinedCodebook(GroupedCodebook):
    """One group of K codes, each a semantic and a pixel code vector side by side.

    A patch takes the code nearest to both of its vectors together, and each half keeps its own
    metric. The codes (1, K, D_semantic + D_pixel) are a copy of (1, K, D_semantic) and
    (K, 1, D_pixel); `push` writes them back into those two codebooks, which a saved model holds.
    """

    def __init__(self, semantic: GroupedCodebook, pixel: GroupedCodebook):
        # Before the base class, whose constructor normalises.
        self._halves = semantic, pixel  # a tuple: not sub-modules, the model saves them
        self._dims = [semantic.codes.shape[-1], pixel.codes.shape[-1]]
        # Euclidean over both: where a half is cosine, its codes and vectors have length one.
        super().__init__(1, 1, sum(self._dims), "euclidean")
        joined = torch.cat([semantic.codes[0], pixel.codes[:, 0]], dim=-1)
        self.codes = nn.Parameter(joined.detach().unsqueeze(0), requires_grad=False)

    def normalize(self, vectors: Tensor) -> Tensor:
        """Each half of (..., D_semantic + D_pixel) normalised for its own metric, in float32."""
        parts = vectors.split(self._dims, dim=-1)
        pairs = zip(self._halves, parts, strict=True)
        return torch.cat([half.normalize(part) for half, part in pairs], dim=-1)

    @torch.no_grad()
    def push(self) -> None:
        """Write the codes back into the two codebooks that they came from."""
        semantic, pixel = self.codes[0].split(self._dims, dim=-1)
        self._halves[0].codes.copy_(semantic.unsqueeze(0))
        self._halves[1].codes.copy_(pixel.unsqueeze(1))
