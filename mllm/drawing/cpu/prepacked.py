"""Matrices of a large model, laid out once for products of few rows, on a CPU in float32.

Drawing multiplies few rows by large matrices, where a matrix library spends its time on bringing a
matrix into its own order, again in each call. oneDNN can keep that order, as torch's own compiler
makes it do for frozen weights. Its kernels then also give a row the same bits in any number of
rows, so that a pass needs no padding (see `batch_invariance`). The price is a copy of the weights.
While a pass is compiled the compiler sees plain products, and prepacks them itself.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# In a smaller model the calls take the time, and oneDNN's take longer.
LEAST_NUMBERS = 2**24
MOST_NUMBERS = 2**30  # 4 GiB of copies
ROWS = 16  # the order is chosen for products of so many, and serves others


class PrepackedLinear(nn.Module):
    """A float32 linear layer on the CPU that multiplies by a copy of its matrix in oneDNN's order;
    with `keep_matrix` its own is at hand too, as `weight`, which a compiler needs."""

    def __init__(self, linear: nn.Linear, keep_matrix: bool = True):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight = linear.weight if keep_matrix else None
        self.bias = linear.bias
        self._prepacked = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), ROWS)

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., in_features) → (..., out_features)."""
        if torch.compiler.is_compiling():
            assert self.weight is not None
            return F.linear(inputs, self.weight, self.bias)
        return torch.ops.mkldnn._linear_pointwise(
            inputs, self._prepacked, self.bias, "none", [], ""
        )


def is_worthwhile(model: nn.Module) -> bool:
    """Whether prepacking makes products with this model's matrices quicker, and there is room."""
    numbers = sum(parameter.numel() for parameter in model.parameters())
    parameter = next(model.parameters())
    return (
        LEAST_NUMBERS <= numbers <= MOST_NUMBERS
        and parameter.device.type == "cpu"
        and parameter.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )
