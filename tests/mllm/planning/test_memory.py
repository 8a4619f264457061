import json
from pathlib import Path

import pytest
import torch
from torch.optim import AdamW

import semhitok
from mllm.phase.optimizer import MuonWithAdamW
from mllm.phase.parameter_groups import parameter_groups
from mllm.planning.memory import states
from mllm.planning.model import (
    build_on_meta,
    optimizer_groups,
    read_model_config,
)
from mllm.planning.plan import make_plan
from tests import processes

CONFIGS = Path(semhitok.__file__).parents[1] / "configs" / "mllm"


def bytes_of(tensors):
    return sum(t.numel() * t.element_size() for t in tensors)


@pytest.mark.parametrize("rule", ["adamw", "muon"])
def test_bytes_are_what_torch_holds(tiny, rule):
    config, model, planned = tiny
    config.optimizer = rule
    trained = [p for p in model.parameters() if p.requires_grad]
    if rule == "adamw":
        optimizer = AdamW(trained)
        inner = [optimizer]
    else:
        optimizer = MuonWithAdamW(parameter_groups(model, config), config)
        inner = [optimizer.muon, optimizer.adamw]
    for parameter in trained:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    frozen = [p.numel() for p in planned.parameters() if not p.requires_grad]
    held = states(optimizer_groups(planned, config), frozen, 0, 1, bf16=False)
    moments = [t for o in inner for s in o.state.values() for t in s.values() if t.ndim]
    assert held.optimizer == bytes_of(moments) > 0
    assert held.weights == bytes_of(model.parameters())
    assert held.gradients == bytes_of(p.grad for p in trained)
    assert held.device == held.weights + held.gradients + held.optimizer


def test_bytes_of_a_lora_run_are_what_torch_holds(lora):
    config, model, _ = lora
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = AdamW(trained)
    ids = torch.tensor([[7, 3, 9, 8, model.vocabulary.offset, 5]])
    model(ids, labels=ids).loss.backward()
    optimizer.step()
    plan = make_plan(config, None, 1, 10**9)
    assert [group.names for group in plan.groups] == [
        group.names for group in parameter_groups(model, config)
    ]
    held = plan.shardings[0].states
    moments = [t for state in optimizer.state.values() for t in state.values() if t.ndim]
    assert held.optimizer == bytes_of(moments) > 0
    assert held.gradients == bytes_of(p.grad for p in model.parameters() if p.grad is not None)
    assert held.weights == bytes_of(model.parameters())
    whole = make_plan(config.model_copy(update={"lora": None}), None, 1, 10**9)
    assert held.optimizer < whole.shardings[0].states.optimizer
    assert plan.flops_per_step < whole.flops_per_step


def test_more_ranks_and_stages_never_need_more(tiny):
    config, _, planned = tiny
    groups = optimizer_groups(planned, config)
    frozen = [p.numel() for p in planned.parameters() if not p.requires_grad]
    held = [states(groups, frozen, stage, 8, bf16=True) for stage in (0, 1, 2, 3)]
    for less, more in zip(held[1:], held, strict=False):
        assert less.device - less.buffers < more.device - more.buffers
    for stage in (1, 2, 3):
        offloaded = states(groups, frozen, stage, 8, bf16=True, offload=True)
        assert offloaded.host == offloaded.master + offloaded.optimizer > 0
        assert offloaded.device == held[stage].device - offloaded.host


@pytest.mark.slow
def test_bytes_are_what_deepspeed_holds(world):
    finished = processes.run_ranks(2, "-m", "tests.mllm.deepspeed_bytes", world.start)
    assert finished.returncode == 0, finished.stderr[-3000:]
    found = json.loads(finished.stdout.partition("HELD ")[2])
    planned = build_on_meta(read_model_config(world.start, None))
    groups = optimizer_groups(planned, world.phase(world.start))
    frozen = [p.numel() for p in planned.parameters() if not p.requires_grad]
    for stage in (1, 2, 3):
        held = states(groups, frozen, stage, 2, bf16=True)
        assert found[str(stage)] == {
            "weights": held.weights, "master": held.master, "optimizer": held.optimizer,
        }  # fmt: skip
