"""Which parts of the model train, and the groups of parameters that the optimiser makes of them."""

from dataclasses import dataclass
from typing import Any, Literal

from torch import nn
from transformers import Trainer

from mllm.phase.settings import PhaseSettings

PARTS = ("image_adapter", "image_head", "layers", "embed_tokens")


@dataclass
class ParameterGroup:
    """Parameters that one rule moves.

    `decays` says whether weight decay acts on them; `multiplier` is their learning rate as a factor
    of the run's.
    """

    rule: Literal["adamw", "muon"]
    decays: bool
    multiplier: float
    names: list[str]
    parameters: list[nn.Parameter]

    @property
    def num_parameters(self) -> int:
        """Numbers, not tensors."""
        return sum(parameter.numel() for parameter in self.parameters)

    @property
    def num_states(self) -> int:
        """float32 numbers kept for each parameter: two moments of AdamW, the momentum of Muon."""
        return 2 if self.rule == "adamw" else 1

    @property
    def parts(self) -> list[str]:
        """Of the model, in the order of `PARTS`."""
        return [part for part in PARTS if any(part_of(name) == part for name in self.names)]

    def for_torch(self, settings: PhaseSettings) -> dict[str, Any]:
        """The group as torch's optimisers take it."""
        return {
            "params": self.parameters,
            "lr": settings.learning_rate * self.multiplier,
            "weight_decay": settings.weight_decay if self.decays else 0.0,
        }


def part_of(name: str) -> str:
    """The part of the model that a parameter of this name belongs to; "" for the frozen tokenizer.

    Wrappers such as PEFT's put words before and after, never within.
    """
    name = name.removeprefix("module.").removeprefix("base_model.model.")
    known = {"adapter": "image_adapter", "image_head": "image_head", "image_tokenizer": ""}
    language_model = "layers" if ".layers." in name or ".norm." in name else "embed_tokens"
    return known.get(name.partition(".")[0], language_model)


def freeze_parts(model: nn.Module, settings: PhaseSettings) -> None:
    """Turn off the gradients of the parts whose multiplier is 0."""
    for name, parameter in model.named_parameters():
        part = part_of(name)
        if part and settings.multipliers[part] == 0:
            parameter.requires_grad_(False)


def parameter_groups(model: Any, settings: PhaseSettings) -> list[ParameterGroup]:
    """What the optimiser moves, all that is trainable: a group for each learning rate, with and
    without weight decay.

    With optimizer muon the language model's linear maps are the first group, without its embeddings
    and its head.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    groups = []
    if settings.optimizer == "muon":
        names = {id(parameter): name for name, parameter in trained.items()}
        text = model.language_model
        ends = (text.get_input_embeddings(), text.get_output_embeddings())
        outside = {id(parameter) for module in ends for parameter in module.parameters()}
        linear = [module for module in text.modules() if isinstance(module, nn.Linear)]
        weights = [module.get_parameter("weight") for module in linear]
        hidden = [w for w in weights if w.requires_grad and id(w) not in outside]
        of_hidden = [names[id(parameter)] for parameter in hidden]
        multiplier = settings.learning_rate_multipliers.layers
        groups.append(ParameterGroup("muon", True, multiplier, of_hidden, hidden))
        trained = {name: p for name, p in trained.items() if name not in of_hidden}
        decaying = {name for name, parameter in trained.items() if parameter.ndim > 1}
    else:  # a method of the Trainer that reads nothing of it
        decaying = set(Trainer.get_decay_parameter_names(None, model))
    by_rule: dict[tuple[bool, float], ParameterGroup] = {}
    for decays in (True, False):
        for name, parameter in trained.items():
            if (name in decaying) == decays:
                multiplier = settings.multipliers[part_of(name)]
                new = ParameterGroup("adamw", decays, multiplier, [], [])
                group = by_rule.setdefault((decays, multiplier), new)
                group.names.append(name)
                group.parameters.append(parameter)
    return [*groups, *by_rule.values()]
