"""A plan's numbers against published sizes, against torch, and against what runs really hold."""

from pathlib import Path

import pytest

import semhitok
from mllm.init.settings import InitSettings
from mllm.phase.settings import LoRASettings, PhaseSettings
from mllm.planning.plan import make_plan
from mllm.planning.text import print_plan
from mllm.saved.load import load_processor
from runtime.errors import UserError
from runtime.settings import load_settings
from runtime.value_types import anywhere

CONFIGS = Path(semhitok.__file__).parents[1] / "configs" / "mllm"
PUBLISHED = {  # parameters of the plain language models, as their model cards count them
    "smollm2-135m": 134_515_008,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-7b-instruct": 7_615_616_512,
    "llama-3.1-8b": 8_030_261_248,
}
GPUS = {"smollm2-135m": 1, "qwen2.5-0.5b": 4, "qwen2.5-7b-instruct": 8, "llama-3.1-8b": 8}


def shipped(name, phase="sft"):
    with anywhere():
        init = load_settings(InitSettings, CONFIGS / name / "init_mllm.yaml")
        return load_settings(PhaseSettings, CONFIGS / name / "mllm.yaml", [f"phase={phase}"]), init


def test_every_size_is_planned_here():
    assert {path.name for path in CONFIGS.iterdir()} >= set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_shipped_size_is_the_published_one_and_fits_its_hardware(name, monkeypatch):
    monkeypatch.chdir(CONFIGS.parents[1])
    config, init = shipped(name)
    plan = make_plan(config, init, GPUS[name], 80 * 10**9)
    count = plan.parameters
    language_model = ("language model layers", "embed_tokens", "lm_head")
    assert sum(count[part] for part in language_model) == PUBLISHED[name]
    frozen = count["image tokenizer (frozen)"]
    assert sum(g.num_parameters for g in plan.groups) == sum(count.values()) - frozen
    (chosen,) = [p for p in plan.shardings if p.chosen]
    assert chosen.micro_batch_size >= 1 and chosen.peak <= plan.gpu_memory
    num_sequences = chosen.micro_batch_size * chosen.accumulation * GPUS[name]
    assert num_sequences == config.global_batch_size
    assert plan.tokens_per_step == 256 * 4096


def test_a_phase_that_freezes_the_language_model_needs_less(monkeypatch):
    monkeypatch.chdir(CONFIGS.parents[1])
    plans = {}
    for phase in ("align", "sft"):
        config, init = shipped("qwen2.5-7b-instruct", phase)
        plans[phase] = make_plan(config, init, 8, 80 * 10**9)
    align, sft = plans["align"], plans["sft"]
    assert align.parameters == sft.parameters
    new = align.parameters["image adapter"] + align.parameters["image head"]
    assert sum(group.num_parameters for group in align.groups) == new
    assert set(align.learning_rates) == {"image_adapter", "image_head"} < set(sft.learning_rates)
    for small, large in zip(align.shardings, sft.shardings, strict=True):
        assert small.states.optimizer < 0.02 * large.states.optimizer
    # Six for each number of a matrix, without the two of its gradient; attention and heads stay.
    assert 0.6 < align.flops_per_step / sft.flops_per_step < 0.9


def test_a_plan_of_the_7b_with_lora_counts_the_adapters_alone(monkeypatch, capsys):
    monkeypatch.chdir(CONFIGS.parents[1])
    config, init = shipped("qwen2.5-7b-instruct")
    whole = make_plan(config, init, 8, 80 * 10**9)
    config.lora = LoRASettings(rank=16)
    plan = make_plan(config, init, 8, 80 * 10**9)
    # For each layer's maps 16 numbers a row and a column: q, o; k, v; gate, up, down.
    maps = 2 * (3584 + 3584) + 2 * (3584 + 512) + 3 * (3584 + 18944)
    assert plan.parameters["LoRA layers"] == 28 * 16 * maps == 40_370_176
    assert plan.parameters["new tokens"] == 2 * 2 * 3584  # read and written apart
    new = ("LoRA layers", "new tokens", "image adapter", "image head")
    num_trained = sum(plan.parameters[part] for part in new)
    assert sum(group.num_parameters for group in plan.groups) == num_trained
    for small, large in zip(plan.shardings, whole.shardings, strict=True):
        assert small.states.optimizer < 0.03 * large.states.optimizer
        assert small.states.gradients < 0.03 * large.states.gradients
    assert 0.6 < plan.flops_per_step / whole.flops_per_step < 0.9
    config.lora.load_in_4bit = True
    config.deepspeed = None
    packed = make_plan(config, init, 8, 80 * 10**9)
    matrices = 28 * (2 * 3584 * 3584 + 2 * 3584 * 512 + 3 * 3584 * 18944)
    saved = plan.shardings[0].states.weights - packed.shardings[0].states.weights
    # QLoRA: 4.127 bits a number in place of 32.
    assert saved == pytest.approx(matrices * (32 - 4.127) / 8, rel=1e-3)
    assert [placement.stage for placement in packed.shardings] == [0, 1, 1, 2, 2]
    print_plan(packed)
    shown = capsys.readouterr().out
    assert "LoRA: rank 16, alpha 32, on all linear maps of the decoder" in shown
    assert "frozen, in 4 bits" in shown


def test_what_lora_cannot_do_is_refused_by_a_plan_as_by_the_run(lora, tmp_path):
    config, model, _ = lora
    model.save_pretrained(tmp_path / "trained")
    load_processor(config.model).save_pretrained(tmp_path / "trained")
    config.model = tmp_path / "trained"
    assert "LoRA layers" in make_plan(config, None, 1, 10**9).parameters
    config.lora = None
    with pytest.raises(UserError, match="has LoRA layers; give a lora section to train them"):
        make_plan(config, None, 1, 10**9)
    config.lora = LoRASettings(rank=4, alpha=4.0)
    with pytest.raises(UserError, match="has LoRA layers with rank 2, not 4"):
        make_plan(config, None, 1, 10**9)


def test_the_largest_micro_batch_is_found(world, tmp_path):
    config = world.phase(tmp_path / "run", global_batch_size=12)
    plan = make_plan(config, None, 1, 10**12)
    first = plan.shardings[0]
    assert (first.micro_batch_size, first.accumulation) == (12, 1)
    needed = first.states.device + 5 * plan.sequence_bytes
    tight = make_plan(config, None, 1, int(needed / 0.9) + 2).shardings[0]
    assert (tight.micro_batch_size, tight.accumulation) == (4, 3)
    assert make_plan(config, None, 1, 10**5).shardings[0].micro_batch_size == 0
    config.micro_batch_size = 3
    given = make_plan(config, None, 1, 10**12).shardings[0]
    assert (given.micro_batch_size, given.accumulation) == (3, 4)
    assert given.peak == first.states.device + 3 * plan.sequence_bytes
    config.micro_batch_size = 5
    with pytest.raises(UserError, match="not a multiple of micro_batch_size 5 × 1 ranks"):
        make_plan(config, None, 1, 10**12)
