"""Weighted cross entropy of a linear layer's scores, a bounded number of scores at a time.

The scores of 8,192 labels over 348,544 tokens take 11.4 GB in float32, and training holds them more
than once. Here a chunk of labels is scored, reduced to its losses and to its part of the gradients
at once, and dropped. No score is made twice: torch's own `linear_cross_entropy` scores again in its
backward pass when each label has a weight of its own, which costs a third more time.

Shapes: n labels, D width, V vocabulary.
"""

from collections.abc import Callable
from math import ceil
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

# 268 MB of float32: 192 labels over 348,544 tokens. What fits into one chunk goes through the head
# as through any layer.
CHUNK_SCORES = 2**26
# On a CPU the softmax goes over a few labels at a time, whose scores stay in the cache: 2 MB.
CACHED_SCORES = 2**19
Score = Callable[[Tensor], Tensor]  # (n, D) → (n, V)


def weighted_loss(
    head: nn.Module,
    vocab_size: int,
    hidden: Tensor,
    labels: Tensor,
    weights: Tensor,
    z_weight: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Weighted negative log-likelihoods of labels under the scores `head(hidden)`.

    Args:
        head: linear layer, or a wrapper of one, such as PEFT's.
        vocab_size: V, which a weight that ZeRO-3 has cut up doesn't tell.
        hidden: (n, D) states that predict the labels.
        labels: (n,) in [0, V).
        weights: (n,) of the labels; they take no gradient.
        z_weight: of (log Z)² beside each label's loss, Z the sum of the exponentiated scores.

    Returns:
        Σ weight · (-log p(label) + z_weight · (log Z)²), a scalar with gradients; and -log p(label)
        of each, (n,), in nats, without.
    """
    weights = weights.detach().float()
    if isinstance(head, OneCallHead):
        return head(hidden, loss=(vocab_size, labels, weights, z_weight))
    return _chunked(head, head, vocab_size, hidden, labels, weights, z_weight)


class OneCallHead(nn.Linear):
    """A head that can also compute the loss of its scores, all chunks in one call.

    ZeRO-3 gathers the weight at each call of a module, on all ranks at once. Ranks have different
    numbers of labels, so a call for each chunk would make them wait for one another forever.
    """

    def forward(self, hidden: Tensor, loss: tuple | None = None) -> Any:
        """Scores of (n, D) states, or their loss with the other arguments of `_chunked`."""
        if loss is None:
            return super().forward(hidden)
        vocab_size, *others = loss
        return _chunked(self, self._scores, vocab_size, hidden, *others)

    def _scores(self, hidden: Tensor) -> Tensor:
        """What a call gives, without ZeRO-3's hooks around it."""
        scores = super().forward(hidden)
        replace = _replacement(self)
        return scores if replace is None else replace(self, (hidden,), scores)


def compute_loss_in_one_call(head: nn.Module) -> None:
    """Make a head a `OneCallHead`, in place: its weight and its owners stay the same."""
    head.__class__ = OneCallHead


def _replacement(head: nn.Module) -> Any:
    """What `lora.NewTokens` puts in place of some scores of a head; None for a plain one."""
    return vars(head).get("replace_scores")


def _chunked(
    head: nn.Module,
    score: Score,
    vocab_size: int,
    hidden: Tensor,
    labels: Tensor,
    weights: Tensor,
    z_weight: float,
) -> tuple[Tensor, Tensor]:
    chunk = max(1, CHUNK_SCORES // vocab_size)
    if len(labels) <= chunk:
        return _whole(score, hidden, labels, weights, z_weight)
    # Its `weight` alone may not be what it computes: then by activation checkpointing, which makes
    # a weight gradient for each chunk.
    if type(head) not in (nn.Linear, OneCallHead) or _replacement(head) is not None:
        pieces = zip(hidden.split(chunk), labels.split(chunk), weights.split(chunk), strict=True)
        parts = [checkpoint(_whole, score, *one, z_weight, use_reentrant=False) for one in pieces]
        totals, losses = zip(*parts, strict=True)
        return torch.stack(totals).sum(), torch.cat(losses)
    weight: Any = head.weight
    bias: Any = head.bias
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    with torch.autocast(device, enabled=False):
        return _FusedCrossEntropy.apply(
            hidden, weight, bias, labels, weights, z_weight, chunk, torch.is_grad_enabled()
        )


def _whole(
    score: Score, hidden: Tensor, labels: Tensor, weights: Tensor, z_weight: float
) -> tuple[Tensor, Tensor]:
    scores = score(hidden).float()
    losses = F.cross_entropy(scores, labels, reduction="none")
    total = (losses * weights).sum()
    if z_weight:
        total = total + z_weight * (scores.logsumexp(-1).square() * weights).sum()
    return total, losses.detach()


class _FusedCrossEntropy(torch.autograd.Function):
    """Loss and gradients of `chunk` labels at a time, in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        weights: Tensor,
        z_weight: float,
        chunk: int,
        wants_gradients: bool,
    ) -> tuple[Tensor, Tensor]:
        wants = [wants_gradients and needed for needed in ctx.needs_input_grad[:3]]
        by_hidden = torch.empty_like(hidden) if wants[0] else None
        # Sums over chunks are kept in float32, whatever the dtype of the product.
        by_weight = torch.empty_like(weight, dtype=torch.float32) if wants[1] else None
        by_bias = torch.zeros_like(bias, dtype=torch.float32) if wants[2] else None  # type: ignore[arg-type]
        losses = torch.empty_like(weights)
        total = weights.new_zeros(())
        # Of equal size: a small last chunk would add to the whole weight gradient for few labels.
        chunk = ceil(len(labels) / ceil(len(labels) / chunk))
        # One buffer for all chunks: fresh pages for each would cost more than their softmax.
        buffer = hidden.new_empty(min(chunk, len(labels)), weight.shape[0])
        for start in range(0, len(labels), chunk):
            part = slice(start, start + chunk)
            scores = buffer[: len(labels[part])]
            if bias is None:
                torch.mm(hidden[part], weight.T, out=scores)
            else:
                torch.addmm(bias, hidden[part], weight.T, out=scores)
            scores = scores.float()
            log_z, losses[part] = _to_gradient(scores, labels[part], weights[part], z_weight)
            total += (weights[part] * (losses[part] + z_weight * log_z.square())).sum()
            if not any(wants):
                continue
            if by_bias is not None:
                by_bias += scores.sum(0)
            scores = scores.to(hidden.dtype)
            if by_hidden is not None:
                torch.mm(scores, weight, out=by_hidden[part])
            if by_weight is not None:
                _add_product(by_weight, scores, hidden[part], first=start == 0)
        ctx.gradients = (by_hidden, by_weight, by_bias)
        ctx.dtypes = (hidden.dtype, weight.dtype, None if bias is None else bias.dtype)
        ctx.mark_non_differentiable(losses)
        return total, losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Any) -> tuple:
        # Handed over, not kept: what autograd alone holds becomes `.grad` without a copy.
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError("the gradients of this loss are gone; call backward once")
        scaled = [
            None if part is None else part.mul_(gradient).to(dtype)
            for part, dtype in zip(gradients, ctx.dtypes, strict=True)
        ]
        return (*scaled, None, None, None, None, None)


def _add_product(sums: Tensor, scores: Tensor, hidden: Tensor, first: bool) -> None:
    """sums (V, D) += scoresᵀ (V, c) · hidden (c, D); the first product needs no zeros to add to."""
    if hidden.dtype == torch.float32:
        torch.addmm(sums, scores.T, hidden, beta=0 if first else 1, out=sums)
    elif first:
        sums.copy_(scores.T @ hidden)
    else:
        sums += scores.T @ hidden


def _to_gradient(
    scores: Tensor, labels: Tensor, weights: Tensor, z_weight: float
) -> tuple[Tensor, Tensor]:
    """Turn scores (c, V), in place, into the gradients of the weighted loss by them.

    Returns log Z and -log p(label), each (c,).
    """
    step = max(1, CACHED_SCORES // scores.shape[1]) if scores.device.type == "cpu" else len(scores)
    log_z, losses = torch.empty_like(weights), torch.empty_like(weights)
    for start in range(0, len(scores), step):
        part = slice(start, start + step)
        few, label, weight = scores[part], labels[part, None], weights[part, None]
        at_label = few.gather(1, label)
        highest = few.amax(1, keepdim=True)
        total = few.sub_(highest).exp_().sum(1, keepdim=True)
        log = total.log() + highest
        # d loss / d score = p - [is the label], d (log Z)² / d score = 2 log Z · p.
        few.mul_(weight * (1 + 2 * z_weight * log) / total)
        few.scatter_add_(1, label, -weight)
        log_z[part], losses[part] = log.squeeze(1), (log - at_label).squeeze(1)
    return log_z, losses
