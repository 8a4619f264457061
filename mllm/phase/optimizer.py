"""Muon for the matrices inside the language model, AdamW for everything else.

Muon (https://kellerjordan.github.io/posts/muon) replaces each momentum matrix by its nearest
orthogonal one, so that rare directions move as fast as common ones. It is made for hidden matrices;
embeddings, heads, gains and biases stay with AdamW. With `match_rms_adamw` (arXiv 2502.16982) an
update is as large as AdamW's, so both take one learning rate.
"""

from collections.abc import Callable
from typing import Any

from torch.optim import AdamW, Optimizer

from mllm.phase.muon import Muon
from mllm.phase.parameter_groups import ParameterGroup
from mllm.phase.settings import PhaseSettings


class MuonWithAdamW(Optimizer):
    """One optimiser to the Trainer, two inside.

    Args:
        groups: what trains, the matrices of Muon first.
        settings: of the run; its learning rate is the peak of both.
    """

    def __init__(self, groups: list[ParameterGroup], settings: PhaseSettings):
        hidden, *others = [group.for_torch(settings) for group in groups]
        self.muon = Muon([hidden], adjust_lr_fn="match_rms_adamw")
        self.adamw = AdamW(others, betas=settings.betas)
        super().__init__([p for group in groups for p in group.parameters], {})
        self._share_groups()

    def _share_groups(self) -> None:
        # The very same dictionaries: a schedule that writes "lr" here reaches both.
        self.param_groups = [*self.muon.param_groups, *self.adamw.param_groups]

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move all parameters once.

        Raises:
            ValueError: for a closure, which two optimisers would run twice.
        """
        if closure is not None:
            raise ValueError("MuonWithAdamW takes no closure; compute the gradients before")
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
