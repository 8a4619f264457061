"""Muon for the matrices inside the language model, AdamW for everything else.

Muon (https://kellerjordan.github.io/posts/muon) replaces each momentum matrix by its nearest
orthogonal one, so that rare directions move as fast as common ones. It is made for hidden matrices;
embeddings, heads, gains and biases stay with AdamW. With `match_rms_adamw` (arXiv 2502.16982) an
update is as large as AdamW's, so both take one learning rate.

Shapes: n matrices of one shape, (R, C) rows and columns.
"""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from mllm.phase.parameter_groups import ParameterGroup
from mllm.phase.settings import PhaseSettings


class Muon(torch.optim.Muon):
    """The update of `torch.optim.Muon`, with its arguments and its state.

    That one multiplies in bfloat16 wherever it runs. A CPU without bfloat16 units takes 27 times as
    long for that as for float32 (measured: 102 and 3.8 ms for one 128 × 128 matrix on AVX2), so a
    CPU takes float32 here. Matrices of one shape are multiplied together.
    """

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Move all parameters once."""
        for group in self.param_groups:
            alike: dict[tuple, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike[parameter.shape, parameter.dtype, parameter.device].append(parameter)
            for parameters in alike.values():
                self._move(group, parameters)

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
        # How much longer than the learning rate a step is, as `torch.optim.Muon` has it.
        rows, columns = parameters[0].shape
        if group["adjust_lr_fn"] == "match_rms_adamw":
            ratio = 0.2 * max(rows, columns) ** 0.5
        else:
            ratio = max(1.0, rows / columns) ** 0.5
        for parameter, update in zip(parameters, orthogonal, strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(update.to(parameter.dtype), alpha=-group["lr"] * ratio)


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


class MuonWithAdamW(Optimizer):
    """One optimiser to the Trainer, two inside; the matrices of Muon are the first group."""

    def __init__(self, groups: list[ParameterGroup], settings: PhaseSettings):
        hidden, *others = [group.for_torch(settings) for group in groups]
        self.muon = Muon([hidden], adjust_lr_fn="match_rms_adamw")
        self.adamw = AdamW(others, betas=settings.betas)
        super().__init__([p for group in groups for p in group.parameters], {})
        self._share_groups()

    def _share_groups(self) -> None:
        # The very same dictionaries: a schedule that writes "lr" here reaches both.
        self.param_groups = [*self.muon.param_groups, *self.adamw.param_groups]

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move all parameters once; a closure would run twice, so there is none."""
        assert closure is None
        self.muon.step()
        self.adamw.step()

    def state_dict(self) -> dict[str, Any]:
        """Both states, by name."""
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.muon.load_state_dict(state_dict["muon"])
        self.adamw.load_state_dict(state_dict["adamw"])
        self._share_groups()
