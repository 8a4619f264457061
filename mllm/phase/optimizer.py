"""Muon for the matrices inside the language model, AdamW for everything else.

Muon (https://kellerjordan.github.io/posts/muon) replaces each momentum matrix by its nearest
orthogonal one, so that rare directions move as fast as common ones. It is made for hidden matrices;
embeddings, heads, gains and biases stay with AdamW. With `match_rms_adamw` (arXiv 2502.16982) an
update is as large as AdamW's, so both take one learning rate.
"""

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer
from transformers import PreTrainedModel

from mllm.phase.muon import Muon
from mllm.phase.parameter_groups import part_of
from mllm.phase.settings import PartRates


class MuonWithAdamW(Optimizer):
    """One optimiser to the Trainer, two inside.

    Args:
        model: the whole model; only what is trainable is moved.
        language_model: the part of it whose linear maps Muon moves, its embeddings and its head
            excepted.
        lr: peak learning rate of both.
        betas: of AdamW.
        weight_decay: of all matrices; gains and biases do not decay.
        rates: learning rate of each part as a factor of `lr`; by default 1.
    """

    def __init__(
        self,
        model: nn.Module,
        language_model: PreTrainedModel,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
        rates: PartRates | None = None,
    ):
        rates = rates or PartRates()
        hidden = _hidden_matrices(language_model)
        taken = {id(parameter) for parameter in hidden}
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        rest = {name: p for name, p in named if id(p) not in taken}
        self.muon = Muon(
            hidden, lr=lr * rates.layers, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
        )
        groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
        for is_matrix in (True, False):
            for name, parameter in rest.items():
                if (parameter.ndim > 1) == is_matrix:
                    key = (is_matrix, getattr(rates, part_of(name)))
                    groups.setdefault(key, []).append(parameter)
        self.adamw = AdamW(
            [
                {"params": group, "weight_decay": weight_decay * is_matrix, "lr": lr * rate}
                for (is_matrix, rate), group in groups.items()
            ],
            lr=lr,
            betas=betas,
        )
        super().__init__([*hidden, *rest.values()], {})
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
            raise ValueError("MuonWithAdamW takes no closure: compute the gradients before.")
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


def _hidden_matrices(language_model: PreTrainedModel) -> list[nn.Parameter]:
    ends = (language_model.get_input_embeddings(), language_model.get_output_embeddings())
    outside = {id(parameter) for module in ends for parameter in module.parameters()}
    linear = [m for m in language_model.modules() if isinstance(m, nn.Linear)]
    weights = [module.get_parameter("weight") for module in linear]
    return [w for w in weights if w.requires_grad and id(w) not in outside]
