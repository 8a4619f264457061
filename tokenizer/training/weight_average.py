"""A moving average of the weights (EMA), which is what such a run validates and saves."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tokenizer.codebooks.updater import CodebookUpdater
from tokenizer.model.codebook import GroupedCodebook


class WeightAverage(nn.Module):
    """Averages everything that a phase trains: its parameters, and the codes of its codebooks.

    `decay` is the weight of the past at each step.
    """

    def __init__(self, phase: nn.Module, decay: float):
        super().__init__()
        moving = [p for p in phase.parameters() if p.requires_grad]
        # Codes move outside the optimiser; those of a frozen codebook average to themselves.
        codebooks = [m for m in phase.modules() if isinstance(m, GroupedCodebook)]
        moving += [c.codes for c in codebooks if not c.codes.requires_grad]
        self._moving = [nn.ParameterList(moving)]  # in a list: the phase saves them
        positions = {id(parameter): position for position, parameter in enumerate(moving)}
        self._updaters = [
            (positions[id(m.codebook.codes)], m)
            for m in phase.modules()
            if isinstance(m, CodebookUpdater)
        ]
        self.average = AveragedModel(self._moving[0], multi_avg_fn=get_ema_multi_avg_fn(decay))

    @torch.no_grad()
    def update(self) -> None:
        """Move the average by one step; codes that were started or restarted begin again."""
        self.average.update_parameters(self._moving[0])
        averages = list(self.average.module.parameters())
        for position, updater in self._updaters:
            averages[position][updater.moved] = self._moving[0][position][updater.moved]
            updater.moved.zero_()

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
