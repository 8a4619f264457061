"""Cross entropy of a linear layer's scores, a bounded number of scores at a time.

The scores of 8,192 labels over 348,544 rows take 11.4 GB in float32, and training holds them more
than once. Here a chunk of labels is scored, reduced to its losses and dropped; the backward pass
scores it again.

Shapes: n labels, D width, V rows.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

# 268 MB of float32: 192 labels over 348,544 rows. What fits into one chunk is not chunked at all,
# since scoring it twice would cost time and save nothing.
CHUNK_SCORES = 2**26
HAS_TORCH_CHUNKS = hasattr(F, "linear_cross_entropy")  # since torch 2.13


def label_losses(
    head: nn.Module, num_rows: int, hidden: Tensor, labels: Tensor, with_log_z: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Negative log-likelihoods of labels under the scores `head(hidden)`.

    Args:
        head: linear layer, or a wrapper of one, such as PEFT's.
        num_rows: V, which a weight that ZeRO-3 has cut up doesn't tell.
        hidden: (n, D) states that predict the labels.
        labels: (n,) in [0, V).
        with_log_z: also the logsumexp of the scores, for a z-loss.

    Returns:
        -log p(label) and, if asked for, log Z; each (n,), in nats, with gradients.
    """
    chunk = max(1, CHUNK_SCORES // num_rows)
    if len(labels) <= chunk:
        return _whole(head, hidden, labels, with_log_z)
    if type(head) is not nn.Linear:  # its `weight` alone may not be what it computes
        return _through_module(head, hidden, labels, with_log_z, chunk)
    weight: Tensor = head.weight
    bias: Tensor | None = head.bias
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    with torch.autocast(device, enabled=False):
        # torch's gives no log Z, and in bfloat16 it rounds the losses to three digits.
        if HAS_TORCH_CHUNKS and not with_log_z and hidden.dtype == torch.float32:
            options = nn.LinearCrossEntropyOptions(batch_chunk_size=chunk)
            losses = F.linear_cross_entropy(
                hidden, weight, labels, linear_bias=bias, reduction="none", options=options
            )
            return losses, None
        losses, log_z = _ChunkedCrossEntropy.apply(hidden, weight, bias, labels, chunk)
    return losses, log_z if with_log_z else None


def _whole(
    head: nn.Module, hidden: Tensor, labels: Tensor, with_log_z: bool
) -> tuple[Tensor, Tensor | None]:
    scores = head(hidden).float()
    log_z = scores.logsumexp(-1) if with_log_z else None
    return F.cross_entropy(scores, labels, reduction="none"), log_z


def _through_module(
    head: nn.Module, hidden: Tensor, labels: Tensor, with_log_z: bool, chunk: int
) -> tuple[Tensor, Tensor | None]:
    """The same by activation checkpointing, which makes a weight gradient for each chunk."""
    parts = [
        checkpoint(_whole, head, *piece, with_log_z, use_reentrant=False)
        for piece in zip(hidden.split(chunk), labels.split(chunk), strict=True)
    ]
    log_z = torch.cat([part[1] for part in parts]) if with_log_z else None
    return torch.cat([part[0] for part in parts]), log_z


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Losses and log Z of `chunk` labels at a time; every temporary is changed in place."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, chunk: int
    ) -> tuple[Tensor, Tensor]:
        at_label = hidden.new_empty(len(labels), dtype=torch.float32)
        log_z = torch.empty_like(at_label)
        for start in range(0, len(labels), chunk):
            part = slice(start, start + chunk)
            scores = F.linear(hidden[part], weight, bias).float()
            at_label[part] = scores.gather(1, labels[part, None]).squeeze(1)
            highest = scores.amax(1, keepdim=True)
            log_z[part] = scores.sub_(highest).exp_().sum(1).log() + highest.squeeze(1)
        ctx.save_for_backward(hidden, weight, bias, labels, log_z)
        ctx.chunk = chunk
        return log_z - at_label, log_z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, loss_gradient: Tensor, log_z_gradient: Tensor) -> tuple:
        hidden, weight, bias, labels, log_z = ctx.saved_tensors
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        by_hidden = torch.empty_like(hidden) if wants_hidden else None
        # Sums over chunks are kept in float32, whatever the dtype of the product.
        by_weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        by_bias = torch.zeros_like(bias, dtype=torch.float32) if wants_bias else None
        for start in range(0, len(labels), ctx.chunk):
            part = slice(start, start + ctx.chunk)
            # d loss / d score = p - [is the label], d log Z / d score = p.
            scores = F.linear(hidden[part], weight, bias).float()
            by_score = scores.sub_(log_z[part, None]).exp_()
            by_score.mul_((loss_gradient[part] + log_z_gradient[part])[:, None])
            by_score.scatter_add_(1, labels[part, None], -loss_gradient[part, None])
            if by_bias is not None:
                by_bias += by_score.sum(0)
            by_score = by_score.to(hidden.dtype)
            if by_hidden is not None:
                by_hidden[part] = by_score @ weight
            if by_weight is not None:
                if hidden.dtype == torch.float32:
                    by_weight.addmm_(by_score.T, hidden[part])
                else:
                    by_weight += by_score.T @ hidden[part]
        if by_weight is not None:
            by_weight = by_weight.to(weight.dtype)
        if by_bias is not None:
            by_bias = by_bias.to(bias.dtype)
        return by_hidden, by_weight, by_bias, None, None
