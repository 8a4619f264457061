"""The moving average of the weights that training leaves behind (EMA)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tokenizer.codebooks.upkeep import CodebookUpkeep
from tokenizer.model.codebook import GroupedCodebook


class WeightAverage(nn.Module):
    """Averages all that a phase trains: its parameters, and the codes of its codebook.

    Args:
        phase: the training phase.
        decay: weight of the past at each step.
    """

    def __init__(self, phase: nn.Module, decay: float):
        super().__init__()
        moving = [p for p in phase.parameters() if p.requires_grad]
        # Codes move outside the optimiser; those of a frozen codebook average to themselves.
        codebooks = [m for m in phase.modules() if isinstance(m, GroupedCodebook)]
        moving += [c.codes for c in codebooks if not c.codes.requires_grad]
        self._moving = [nn.ParameterList(moving)]  # in a list: the phase saves them
        places = {id(parameter): place for place, parameter in enumerate(moving)}
        self._updaters = [
            (places[id(m.codebook.codes)], m)
            for m in phase.modules()
            if isinstance(m, CodebookUpkeep)
        ]
        self.average = AveragedModel(self._moving[0], multi_avg_fn=get_ema_multi_avg_fn(decay))

    @torch.no_grad()
    def update(self) -> None:
        """Move the average by one step; codes that were put elsewhere begin theirs anew."""
        self.average.update_parameters(self._moving[0])
        averages = list(self.average.module.parameters())
        for place, updater in self._updaters:
            averages[place][updater.placed] = self._moving[0][place][updater.placed]
            updater.placed.zero_()

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within it the phase has the average's weights; after it its own again, bit for bit."""
        own = [parameter.detach().clone() for parameter in self._moving[0]]
        self.write()
        try:
            yield
        finally:
            self._copy(own)

    def write(self) -> None:
        """Give the phase the average's weights."""
        if int(self.average.n_averaged):
            self._copy([parameter.detach() for parameter in self.average.module.parameters()])

    @torch.no_grad()
    def _copy(self, values: list[torch.Tensor]) -> None:
        for parameter, value in zip(self._moving[0], values, strict=True):
            parameter.copy_(value)
