import pytest
import torch
from torch import nn

from tokenizer.codebooks.settings import CodebookSettings
from tokenizer.codebooks.updater import CodebookUpdater
from tokenizer.model.codebook import GroupedCodebook
from tokenizer.training.weight_average import WeightAverage


def averaged_codes(phase: nn.Module, average: WeightAverage) -> torch.Tensor:
    with average.applied():
        return phase.codebook.codes.detach().clone()


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_codes_that_are_put_elsewhere_begin_their_average_again(update):
    torch.manual_seed(0)
    phase = nn.Module()
    phase.codebook = GroupedCodebook(1, 4, 3, "euclidean")
    settings = CodebookSettings(update=update, decay=0.5, restart_below=0.2)
    phase.updater = CodebookUpdater(phase.codebook, settings)
    average = WeightAverage(phase, decay=0.9)
    average.update()
    before = averaged_codes(phase, average)

    phase.updater.start(10 + torch.randn(50, 3))
    average.update()
    placed = phase.codebook.codes.detach().clone()
    assert (placed > before + 1).all()
    assert torch.equal(averaged_codes(phase, average), placed)  # nothing of the old ones

    phase.updater.counts[0] = torch.tensor([9.0, 9.0, 9.0, 0.0])  # the last is dead
    vectors = torch.full((5, 3), 30.0)
    assert phase.updater.update(vectors, torch.zeros(5, dtype=torch.int64)) == 1
    moved = phase.codebook.codes.detach().clone()
    average.update()
    expected = torch.lerp(placed, moved, 0.1)
    expected[0, 3] = moved[0, 3]
    torch.testing.assert_close(averaged_codes(phase, average), expected)

    with torch.no_grad():
        phase.codebook.codes += 1  # by the optimiser: the usual way, for all of them
    average.update()
    torch.testing.assert_close(averaged_codes(phase, average), torch.lerp(expected, moved + 1, 0.1))
