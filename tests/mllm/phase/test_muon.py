import pytest
import torch

from mllm.phase.muon import Muon, orthogonalise

COEFFICIENTS = (3.4445, -4.775, 2.0315)


def parameters(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shapes = [(8, 8), (8, 24), (24, 8), (8, 24), (5, 3)]
    return [torch.randn(s, generator=generator).to(dtype).requires_grad_() for s in shapes]


def train(optimizer, weights, num_steps=5):
    for step in range(num_steps):
        for number, weight in enumerate(weights):
            generator = torch.Generator().manual_seed(100 * step + number)
            weight.grad = torch.randn(weight.shape, generator=generator) + weight.detach()
        optimizer.step()


@pytest.mark.parametrize("adjust", [None, "original", "match_rms_adamw"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_moves_as_torchs_own_but_for_the_rounding_of_bfloat16(adjust, nesterov):
    ours, theirs, start = parameters(), parameters(), parameters()
    settings = {"lr": 0.02, "weight_decay": 0.1, "adjust_lr_fn": adjust, "nesterov": nesterov}
    train(Muon(ours, **settings), ours)
    train(torch.optim.Muon(theirs, **settings), theirs)
    for one, other, before in zip(ours, theirs, start, strict=True):
        moved = (one - before).norm()
        assert moved > 0.01
        assert (one - other).norm() < 0.02 * moved  # measured: at most 0.009


def test_singular_values_come_close_to_one():
    matrices = torch.randn(4, 16, 48, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonalise(matrices, COEFFICIENTS, 5, 1e-7))
    assert values.min() > 0.6 and values.max() < 1.3
    tall = orthogonalise(matrices.mT, COEFFICIENTS, 5, 1e-7)
    torch.testing.assert_close(tall.mT, orthogonalise(matrices, COEFFICIENTS, 5, 1e-7))


def test_a_zero_gradient_and_a_missing_one_move_nothing():
    weights = parameters()
    before = [weight.detach().clone() for weight in weights]
    optimizer = Muon(weights, lr=0.1, weight_decay=0.0)
    for weight in weights[1:]:
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert all(torch.equal(*pair) for pair in zip(before, weights, strict=True))
