"""Output heads over image codes: `flat` and `hierarchical`, both with exact likelihoods.

Shapes: n positions, D width of the language model, K semantic codes, M pixel codes each.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mllm.model import loss
from tokenizer.model.modeling_semhitok import SemHiTokModel


class FlatHead(nn.Module):
    """One score for each of the K·M flat codes: the paper's head."""

    def __init__(self, width: int, num_semantic_codes: int, num_pixel_codes: int):
        super().__init__()
        self.num_pixel_codes = num_pixel_codes
        self.rows = nn.Linear(width, num_semantic_codes * num_pixel_codes, bias=False)

    def losses(
        self, hidden: Tensor, image_codes: Tensor, _: SemHiTokModel, weights: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Negative log-likelihoods of the two levels, which sum to that of the flat code.

        Args:
            hidden: (n, D) states that predict the codes.
            image_codes: (n,) flat codes.
            weights: (n,) of the codes in the sum; by default 1.

        Returns:
            The weighted sum over codes and levels, with gradients; the semantic and the pixel
            parts, each (n,), in nats, without. Here the pixel part comes from the M rows of the
            code's own sub-codebook, and the semantic part is the rest.
        """
        if weights is None:
            weights = hidden.new_ones(len(image_codes), dtype=torch.float32)
        num_codes = self.rows.out_features
        total, flat = loss.weighted_loss(self.rows, num_codes, hidden, image_codes, weights)
        pixel = self._pixel_losses(hidden, image_codes)
        return total, flat - pixel, pixel

    @torch.no_grad()
    def _pixel_losses(self, hidden: Tensor, image_codes: Tensor) -> Tensor:
        """(n,) -log p(j | i), in chunks whose rows take no more memory than its scores may."""
        chunk = max(1, loss.CHUNK_SCORES // (self.num_pixel_codes * hidden.shape[-1]))
        parts = []
        for states, codes in zip(hidden.split(chunk), image_codes.split(chunk), strict=True):
            rows = self.rows.weight.unflatten(0, (-1, self.num_pixel_codes))
            chosen = rows[codes // self.num_pixel_codes]
            scores = torch.einsum("nd,nmd->nm", states, chosen.to(states.dtype)).float()
            parts.append(F.cross_entropy(scores, codes % self.num_pixel_codes, reduction="none"))
        return torch.cat(parts)

    def semantic_scores(self, hidden: Tensor) -> Tensor:
        """Unnormalised log p(i), (n, K)."""
        return self.flat_scores(hidden).logsumexp(-1)

    def flat_scores(self, hidden: Tensor) -> Tensor:
        """Unnormalised log p(i, j), (n, K, M)."""
        return self.rows(hidden).float().unflatten(-1, (-1, self.num_pixel_codes))

    def pixel_scores(self, hidden: Tensor, semantic_codes: Tensor, _: SemHiTokModel) -> Tensor:
        """Unnormalised log p(j | i), (n, M); touches M rows a position."""
        rows = self.rows.weight.unflatten(0, (-1, self.num_pixel_codes))[semantic_codes]
        return _scores_of_own(hidden, rows).float()


class HierarchicalHead(nn.Module):
    """p(i) over K codes, then p(j | i) over the M codes of sub-codebook i: K + M scores a token.

    The second level compares a query, made from the hidden state and the chosen semantic code, with
    the code vectors of that sub-codebook: pixel codes of different sub-codebooks share no meaning
    by their number, but they do by their vectors.
    """

    def __init__(
        self,
        width: int,
        num_semantic_codes: int,
        num_pixel_codes: int,
        semantic_dim: int,
        pixel_dim: int,
    ):
        super().__init__()
        self.rows = nn.Linear(width, num_semantic_codes, bias=False)
        self.semantic_embedding = nn.Linear(semantic_dim, width, bias=False)
        self.query = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.key = nn.Linear(pixel_dim, width, bias=False)
        self.pixel_bias = nn.Parameter(torch.zeros(num_semantic_codes, num_pixel_codes))

    def losses(
        self,
        hidden: Tensor,
        image_codes: Tensor,
        image_tokenizer: SemHiTokModel,
        weights: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `FlatHead.losses`."""
        if weights is None:
            weights = hidden.new_ones(len(image_codes), dtype=torch.float32)
        num_codes, num_pixel_codes = self.pixel_bias.shape
        semantic_codes, pixel_codes = image_codes // num_pixel_codes, image_codes % num_pixel_codes
        total, semantic = loss.weighted_loss(self.rows, num_codes, hidden, semantic_codes, weights)
        scores = self.pixel_scores(hidden, semantic_codes, image_tokenizer)
        pixel = F.cross_entropy(scores, pixel_codes, reduction="none")
        return total + (pixel * weights).sum(), semantic, pixel.detach()

    def semantic_scores(self, hidden: Tensor) -> Tensor:
        """Unnormalised log p(i), (n, K)."""
        return self.rows(hidden).float()

    def pixel_scores(
        self, hidden: Tensor, semantic_codes: Tensor, image_tokenizer: SemHiTokModel
    ) -> Tensor:
        """Unnormalised log p(j | i), (n, M)."""
        chosen = image_tokenizer.semantic_codebook.lookup(semantic_codes).to(hidden.dtype)
        query = self.query(hidden + self.semantic_embedding(chosen))
        # Fold the key projection into the query: n·D·D_pixel instead of n·M·D·D_pixel.
        # As rows of a contiguous matrix: see `_scores_of_own` about last bits.
        folded = F.linear(query, self.key.weight.T.contiguous())  # (n, D_pixel)
        codes = image_tokenizer.pixel_sub_codebooks
        groups = image_tokenizer.pixel_groups(semantic_codes)
        vectors = codes.normalize(codes.codes[groups]).to(hidden.dtype)  # (n, M, D_pixel)
        scores = _scores_of_own(folded, vectors) / self.key.out_features**0.5
        return (scores + self.pixel_bias[semantic_codes]).float()


def _scores_of_own(states: Tensor, vectors: Tensor) -> Tensor:
    """(n, m) products of (n, d) states, each with its own (n, m, d) vectors."""
    if torch.is_grad_enabled():
        return torch.einsum("nd,nmd->nm", states, vectors)
    # A batched product is as quick, but its last bit depends on where in memory each matrix begins,
    # and a drawing must not depend on its place in the batch.
    return (states.unsqueeze(1) * vectors).sum(-1)
