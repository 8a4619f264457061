"""Which parts of the model train, and the groups of parameters that the optimiser makes of them."""

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import Trainer

from mllm.phase.settings import MLLMPhaseConfig, PartRates

PARTS = ("image_adapter", "image_head", "layers", "text_rows")


@dataclass
class ParameterGroup:
    """Parameters that one rule moves.

    Attributes:
        rule: "adamw" or "muon".
        decays: whether weight decay pulls at them.
        names: of the parameters.
        parameters: themselves.
        rate: their learning rate as a factor of the run's.
    """

    rule: str
    decays: bool
    names: list[str]
    parameters: list[nn.Parameter]
    rate: float = 1.0

    @property
    def num_parameters(self) -> int:
        """Numbers, not tensors."""
        return sum(parameter.numel() for parameter in self.parameters)

    @property
    def states(self) -> int:
        """float32 numbers kept for each parameter: two moments of AdamW, the momentum of Muon."""
        return 2 if self.rule == "adamw" else 1

    @property
    def parts(self) -> list[str]:
        """Of the model, in the order of `PARTS`."""
        return [part for part in PARTS if any(part_of(name) == part for name in self.names)]


def part_of(name: str) -> str:
    """The part of the model that a parameter of this name belongs to; "" for the frozen tokenizer.

    Wrappers such as PEFT's put words before and after, never within.
    """
    name = name.removeprefix("module.").removeprefix("base_model.model.")
    if name.startswith("adapter."):
        return "image_adapter"
    if name.startswith("image_head."):
        return "image_head"
    if name.startswith("image_tokenizer."):
        return ""
    return "layers" if ".layers." in name or ".norm." in name else "text_rows"


def freeze_parts(model: nn.Module, rates: PartRates) -> None:
    """Let a part whose rate is 0 take no gradient."""
    for name, parameter in model.named_parameters():
        part = part_of(name)
        if part and getattr(rates, part) == 0:
            parameter.requires_grad_(False)


def adamw_groups(model: nn.Module, config: MLLMPhaseConfig) -> list[ParameterGroup]:
    """What AdamW moves: a group for each learning rate, with and without weight decay."""
    # A method of the Trainer that reads nothing of it.
    decaying = set(Trainer.get_decay_parameter_names(None, model))
    groups: dict[tuple[bool, float], ParameterGroup] = {}
    for decays in (True, False):
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad or (name in decaying) != decays:
                continue
            rate = getattr(config.rates, part_of(name))
            group = groups.setdefault((decays, rate), ParameterGroup("adamw", decays, [], [], rate))
            group.names.append(name)
            group.parameters.append(parameter)
    return list(groups.values())


def as_optimizer_groups(
    groups: list[ParameterGroup], config: MLLMPhaseConfig
) -> list[dict[str, Any]]:
    """Groups as torch's optimisers take them."""
    return [
        {
            "params": group.parameters,
            "lr": config.learning_rate * group.rate,
            "weight_decay": config.weight_decay if group.decays else 0.0,
        }
        for group in groups
    ]
