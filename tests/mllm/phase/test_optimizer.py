import copy

import pytest
import torch

from mllm.phase.optimizer import Muon, MuonWithAdamW, orthogonalise
from mllm.phase.parameter_groups import parameter_groups
from mllm.phase.settings import PhaseSettings
from runtime.value_types import anywhere
from tests.mllm.tiny import make_model

COEFFICIENTS = (3.4445, -4.775, 2.0315)


@pytest.fixture
def unified(world):
    return make_model(world, "hierarchical")


def optimizer_of(model):
    with anywhere():
        settings = PhaseSettings(
            model="none", out="none", data="none", num_steps=1, global_batch_size=1,
            learning_rate=0.01, weight_decay=0.1, optimizer="muon",
        )  # fmt: skip
    return MuonWithAdamW(parameter_groups(model, settings), settings)


def step(optimizer, model):
    """Gradients that depend on the weights, so that a difference would grow."""
    for number, parameter in enumerate(p for p in model.parameters() if p.requires_grad):
        noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
        parameter.grad = noise + parameter.detach()
    optimizer.step()


def test_muon_moves_the_layers_matrices_and_nothing_else(unified):
    optimizer = optimizer_of(unified)
    names = {id(parameter): name for name, parameter in unified.named_parameters()}
    groups = [{names[id(p)] for p in group["params"]} for group in optimizer.param_groups]
    muon, matrices, vectors = groups
    trainable = {name for name, p in unified.named_parameters() if p.requires_grad}
    assert muon | matrices | vectors == trainable
    assert len(muon) + len(matrices) + len(vectors) == len(trainable)
    num_layers = unified.config.text_config.num_hidden_layers
    assert len(muon) == 7 * num_layers  # q, k, v, o, gate, up, down
    assert all(".layers." in name and name.endswith("_proj.weight") for name in muon)
    assert any("embed_tokens" in name for name in matrices)
    assert all(name.endswith("bias") or "norm" in name for name in vectors)


def test_a_schedule_reaches_both_parts(unified):
    optimizer = optimizer_of(unified)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)
    before = [p.detach().clone() for p in unified.parameters()]
    step(optimizer, unified)
    assert all(torch.equal(*pair) for pair in zip(before, unified.parameters(), strict=True))
    scheduler.base_lrs = [0.01] * len(optimizer.param_groups)
    scheduler.lr_lambdas = [lambda step: 1.0] * len(optimizer.param_groups)
    scheduler.step()
    step(optimizer, unified)
    moved = [
        not torch.equal(old, new)
        for old, new in zip(before, unified.parameters(), strict=True)
        if new.requires_grad
    ]
    assert all(moved)


def test_a_restored_optimizer_goes_on_alike(unified, world):
    other = make_model(world, "hierarchical")
    other.load_state_dict(unified.state_dict())
    first, second = optimizer_of(unified), optimizer_of(other)
    for _ in range(3):
        step(first, unified)
    other.load_state_dict(unified.state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for group in second.param_groups:  # the groups still belong to the two parts
        group["lr"] = 0.02
    for group in first.param_groups:
        group["lr"] = 0.02
    step(first, unified)
    step(second, other)
    for name, parameter in unified.named_parameters():
        assert torch.equal(parameter, other.get_parameter(name)), name


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
