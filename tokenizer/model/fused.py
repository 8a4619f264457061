"""Linear layers for inference on a CPU in float32: oneDNN's, with bias and activation in one call.

torch passes such products to MKL, after it has copied the bias, and reads the result again for the
activation. oneDNN's kernel does all three at once; on processors that are not Intel's it also
multiplies at twice the speed. The results differ from torch's in the last bits. No gradients.
"""

import copy
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from transformers.models.siglip.modeling_siglip import SiglipMLP

Module = TypeVar("Module", bound=nn.Module)

# Activations that oneDNN knows, and its name for how they are computed.
_GELUS = {"gelu": "none", "gelu_pytorch_tanh": "tanh"}


class FusedLinear(nn.Module):
    """A float32 linear layer on the CPU, whose weights are shared, and the activation after it."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.activation = ("none", "")  # oneDNN's name of it, and of how it is computed

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., in_features) → (..., out_features)."""
        name, how = self.activation
        return torch.ops.mkldnn._linear_pointwise(inputs, self.weight, self.bias, name, [], how)


def with_fused_linears(module: Module) -> Module:
    """A copy of a module for inference that shares its parameters, its linear layers fused.

    It is the module itself on a GPU, or where torch is built without oneDNN. Layers of another type
    than float32 stay as they are, and so do activations except GELU in the blocks of SigLIP and
    Tanh in sequences.
    """
    if (
        next(module.parameters()).device.type != "cpu"
        or not torch.backends.mkldnn.is_available()
        or not hasattr(torch.ops.mkldnn, "_linear_pointwise")
    ):
        return module
    fused = copy_with_linears(module, _fuse)
    for part in list(fused.modules()):
        if isinstance(part, SiglipMLP) and part.config.hidden_act in _GELUS:
            if isinstance(part.fc1, FusedLinear):
                part.fc1.activation = ("gelu", _GELUS[part.config.hidden_act])
                part.activation_fn = nn.Identity()
        elif isinstance(part, nn.Sequential):
            for index in range(1, len(part)):
                before = part[index - 1]
                if isinstance(before, FusedLinear) and isinstance(part[index], nn.Tanh):
                    before.activation = ("tanh", "")
                    part[index] = nn.Identity()
    return fused


@torch.no_grad()
def copy_with_linears(module: Module, make: Callable[[nn.Linear], nn.Module]) -> Module:
    """A copy of a module that shares its parameters, each plain linear layer in it replaced."""
    memo = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    copied = copy.deepcopy(module, memo)
    for parent in list(copied.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Linear:
                setattr(parent, name, make(child))
    return copied


def _fuse(linear: nn.Linear) -> nn.Module:
    return FusedLinear(linear) if linear.weight.dtype == torch.float32 else linear
