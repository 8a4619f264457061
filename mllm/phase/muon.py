"""Muon whose matrix products are in the dtype that the device multiplies fast.

`torch.optim.Muon` multiplies in bfloat16 wherever it runs. A CPU without bfloat16 units takes 27
times as long for that as for float32 (measured: 102 and 3.8 ms for one 128 × 128 matrix on AVX2),
so here a CPU takes float32. Matrices of one shape are multiplied together.

Shapes: n matrices of one shape, (R, C) rows and columns.
"""

from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor


class Muon(torch.optim.Muon):
    """The update of `torch.optim.Muon`, with its arguments and its state."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move all parameters once; see `torch.optim.Optimizer.step`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            alike: dict[tuple, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike[parameter.shape, parameter.dtype, parameter.device].append(parameter)
            for parameters in alike.values():
                self._move(group, parameters)
        return loss

    def _move(self, group: dict, parameters: list[Tensor]) -> None:
        """Move matrices of one shape, dtype and device."""
        updates = []
        for parameter in parameters:
            assert parameter.grad is not None  # `step` took those that have one
            state = self.state[parameter]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            momentum = state["momentum_buffer"].lerp_(parameter.grad, 1 - group["momentum"])
            ahead = group["momentum"] if group["nesterov"] else 1.0
            updates.append(parameter.grad.lerp(momentum, ahead))
        orthogonal = orthogonalise(
            torch.stack(updates), group["ns_coefficients"], group["ns_steps"], group["eps"]
        )
        step_size = group["lr"] * _step_ratio(parameters[0].shape, group["adjust_lr_fn"])
        for parameter, update in zip(parameters, orthogonal, strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(update.to(parameter.dtype), alpha=-step_size)


def orthogonalise(
    matrices: Tensor, coefficients: tuple[float, float, float], num_steps: int, eps: float
) -> Tensor:
    """Push the singular values of matrices towards one by Newton–Schulz iterations.

    Args:
        matrices: (n, R, C).
        coefficients: a, b, c of X ← aX + b(XXᵀ)X + c(XXᵀ)²X
            (https://kellerjordan.github.io/posts/muon).
        num_steps: iterations.
        eps: least norm to divide by.

    Returns:
        (n, R, C), float32 on a CPU and bfloat16 elsewhere; singular values between about 0.7 and
        1.2, but for those that were near zero.
    """
    a, b, c = coefficients
    dtype = torch.float32 if matrices.device.type == "cpu" else torch.bfloat16
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).to(dtype)
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(eps)
    for _ in range(num_steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def _step_ratio(shape: torch.Size, adjust_lr_fn: str | None) -> float:
    """How much longer than the learning rate a step is, as `torch.optim.Muon` has it."""
    rows, columns = shape
    if adjust_lr_fn == "match_rms_adamw":
        return 0.2 * max(rows, columns) ** 0.5
    return max(1.0, rows / columns) ** 0.5
