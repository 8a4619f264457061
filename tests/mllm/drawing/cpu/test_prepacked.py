"""Prepacked matrices compute the same, share the model's parameters, and draw the same images."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.generate_model import make_model
from mllm.drawing.cpu import batch_invariance, prepacked
from mllm.drawing.cpu.prepacked import PrepackedLinear, is_worthwhile
from mllm.drawing.cpu.tables import PrepackedFlatHead
from mllm.drawing.engine import DrawingEngine
from mllm.drawing.requests import ImageJob
from mllm.drawing.step.decoder_step import LeanStep
from mllm.model.heads import FlatHead
from mllm.model.sampler import Sampler
from tokenizer.model.fused import copy_with_linears

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="torch is built without oneDNN here"
)


@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_a_prepacked_product_is_the_product(bias):
    torch.manual_seed(0)
    linear = nn.Linear(96, 200, bias=bias)
    for shape in [(1, 96), (2, 96), (33, 96), (2, 3, 96)]:
        inputs = torch.randn(shape)
        expected = F.linear(inputs, linear.weight, linear.bias)
        torch.testing.assert_close(PrepackedLinear(linear)(inputs), expected, atol=1e-5, rtol=1e-5)


def test_the_copy_shares_parameters_and_leaves_the_module_alone():
    module = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 4, bias=False))
    copy = copy_with_linears(module, PrepackedLinear)
    assert [type(part) for part in module] == [nn.Linear, nn.GELU, nn.Linear]
    assert [type(part) for part in copy] == [PrepackedLinear, nn.GELU, PrepackedLinear]
    assert all(a is b for a, b in zip(module.parameters(), copy.parameters(), strict=True))


def test_small_models_and_other_numbers_are_not_prepacked(monkeypatch):
    model = nn.Linear(64, 64)
    assert not is_worthwhile(model)
    monkeypatch.setattr(prepacked, "LEAST_NUMBERS", 1)
    assert is_worthwhile(model)
    assert not is_worthwhile(model.to(torch.bfloat16))
    monkeypatch.setattr(prepacked, "MOST_NUMBERS", 100)
    assert not is_worthwhile(model.float())


@torch.no_grad()
def test_a_prepacked_flat_head_scores_as_the_flat_head():
    torch.manual_seed(0)
    head = FlatHead(96, 32, 12)
    ready, hidden = PrepackedFlatHead(head), torch.randn(5, 96)
    for name in ("flat_scores", "semantic_scores"):
        expected, found = getattr(head, name)(hidden), getattr(ready, name)(hidden)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert ready.flat_scores(hidden).shape == (5, 32, 12)
    hidden[0] = torch.inf  # scores that overflow are told of as the head itself does
    head.rows.weight.abs_()
    ready = PrepackedFlatHead(head)
    assert ready.semantic_scores(hidden)[0].isinf().all()


@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize("head", ["flat", "hierarchical"])
def test_a_prepacked_model_draws_the_same_images_in_any_batch(head, greedy, monkeypatch):
    model = make_model("quickstart", head, 16)
    sampler = Sampler(guidance_scale=2.0, temperature=0.0 if greedy else 1.0)
    jobs = [ImageJob((5, 6, 7, *range(10, 10 + n)), (8, 9), n) for n in range(9)]
    plain = dict(DrawingEngine(model, sampler, 4).draw(jobs))
    monkeypatch.setattr(prepacked, "LEAST_NUMBERS", 1)
    monkeypatch.setattr(batch_invariance, "_known", batch_invariance.weakref.WeakKeyDictionary())
    engine = DrawingEngine(model, sampler, 4)
    assert isinstance(engine.step, LeanStep) and isinstance(
        engine.step.layers[0].out, PrepackedLinear
    )
    drawn = dict(engine.draw(jobs))
    assert all(torch.equal(plain[number], drawn[number]) for number in plain)
    for size in (1, 9):
        others = dict(DrawingEngine(model, sampler, size).draw(jobs))
        assert all(torch.equal(others[number], drawn[number]) for number in drawn)
