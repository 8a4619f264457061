"""A plan's numbers against published sizes, against torch, and against what runs really hold."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.optim import AdamW
from torch.utils.flop_counter import FlopCounterMode

import semhitok
from mllm.drawing.public_model import UnifiedForConditionalGeneration
from mllm.init.settings import InitSettings
from mllm.phase.lora_phase import load_for_lora
from mllm.phase.optimizer import MuonWithAdamW
from mllm.phase.parameter_groups import parameter_groups
from mllm.phase.settings import LoRASettings, PhaseSettings
from mllm.planning.activations import activations
from mllm.planning.flops import count_flops
from mllm.planning.memory import states
from mllm.planning.model import (
    build_on_meta,
    optimizer_groups,
    parts,
    planned_model,
    read_model_config,
)
from mllm.planning.plan import make_plan
from mllm.planning.text import print_plan
from mllm.saved.load import load_model, load_processor
from runtime.errors import UserError
from runtime.settings import load_settings
from semhitok import main as cli
from tests.mllm.tiny import make_model, write_phase
from tests.ports import free_port

CONFIGS = Path(semhitok.__file__).parents[1] / "configs" / "mllm"
PUBLISHED = {  # parameters of the plain language models, as their model cards count them
    "smollm2-135m": 134_515_008,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-7b-instruct": 7_615_616_512,
    "llama-3.1-8b": 8_030_261_248,
}
GPUS = {"smollm2-135m": 1, "qwen2.5-0.5b": 4, "qwen2.5-7b-instruct": 8, "llama-3.1-8b": 8}


def shipped(name, phase="sft"):
    init = load_settings(InitSettings, CONFIGS / name / "init_mllm.yaml")
    return PhaseSettings.load(CONFIGS / name / "mllm.yaml", [f"phase={phase}"]), init


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


@pytest.fixture
def tiny(world, tmp_path):
    """A trained step's worth of everything: config, real model, model on the meta device."""
    config = world.phase(tmp_path / "run")
    return config, load_model(world.start), build_on_meta(read_model_config(world.start, None))


def test_parts_are_the_saved_models(tiny):
    _, model, planned = tiny
    shapes = [
        {name: (p.shape, p.requires_grad) for name, p in m.named_parameters()}
        for m in (model, planned)
    ]
    assert shapes[0] == shapes[1]
    assert sum(parts(planned).values()) == sum(p.numel() for p in model.parameters())


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


LORA = LoRASettings(rank=2, alpha=4.0)


@pytest.fixture(params=["tied", "untied"])
def lora(request, world, tmp_path):
    """A LoRA run: its config, the model that it trains, and the planned one."""
    start = world.start
    if request.param == "untied":
        model = make_model(world)
        model.config.text_config.tie_word_embeddings = False
        model.config.tie_word_embeddings = False
        start = tmp_path / "untied"
        UnifiedForConditionalGeneration(model.config).save_pretrained(start)
        load_processor(world.start).save_pretrained(start)
    config = world.phase(tmp_path / "run", model=start, lora=LORA)
    model = load_for_lora(start, LORA, load_processor(start).tokenizer, 0)
    return config, model, planned_model(config, None)


def test_a_lora_plan_is_of_the_model_that_trains(lora):
    _, model, planned = lora
    assert all(p.device.type == "meta" for p in planned.parameters())
    shapes = [
        {name: (p.shape, p.requires_grad) for name, p in m.named_parameters()}
        for m in (model, planned)
    ]
    assert shapes[0] == shapes[1]
    counts = parts(planned)
    assert sum(counts.values()) == sum(p.numel() for p in model.parameters())
    layers = [p for name, p in model.named_parameters() if "lora_" in name]
    assert counts["LoRA layers"] == sum(p.numel() for p in layers) > 0
    assert counts["new tokens"] == sum(p.numel() for p in model.new_rows.parameters()) > 0


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


@pytest.mark.parametrize("rule", ["adamw", "muon"])
def test_groups_are_the_trainers(world, tiny, rule, tmp_path):
    from mllm.training.arguments import training_arguments
    from mllm.training.report import Tally
    from mllm.training.trainer import UnifiedTrainer

    config, model, planned = tiny
    config.optimizer = rule
    trainer = UnifiedTrainer(
        model=model,
        args=training_arguments(config),
        settings=config,
        groups=parameter_groups(model, config),
        tally=Tally(),
    )
    names = {id(p): name for name, p in model.named_parameters()}
    real = [
        (group["weight_decay"] > 0, [names[id(p)] for p in group["params"]])
        for group in trainer.create_optimizer().param_groups
    ]
    assert [(g.decays, g.names) for g in optimizer_groups(planned, config)] == real


def test_activations_are_what_autograd_saves(tiny):
    _, model, planned = tiny
    length = 64
    decoder = model.language_model.get_decoder()
    own = {p.untyped_storage().data_ptr() for p in decoder.parameters()}
    saved = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage
        return tensor

    row = torch.randn(1, length, model.config.text_config.hidden_size, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = decoder(inputs_embeds=row, use_cache=False)  # SDPA's fused kernel of the CPU
    real = sum(storage.nbytes() for storage in saved.values())
    kept = activations(planned, length, torch.float32)
    assert output.last_hidden_state.requires_grad
    assert kept.layers == pytest.approx(real, rel=0.03)
    assert kept.checkpointed < kept.layers
    # Measuring leaves the model as it was.
    assert activations(planned, length, torch.float32) == kept
    assert activations(planned, length, torch.bfloat16).layers < kept.layers


@pytest.mark.parametrize("recompute", [False, True])
def test_flops_are_what_torch_counts(world, recompute):
    model = load_model(world.start).language_model
    text, length = model.config, 32
    if recompute:
        model.activation_checkpointing_enable({"use_reentrant": False})
        model.train()
    model.set_attn_implementation("eager")
    token_ids = torch.zeros(1, length, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        embeddings = model.get_input_embeddings()(token_ids)
        hidden = model.get_decoder()(inputs_embeds=embeddings, use_cache=False).last_hidden_state
        model.lm_head(hidden).sum().backward()
    layers = model.get_decoder().layers
    counted = count_flops(
        sum(p.numel() for p in layers.parameters() if p.ndim > 1),
        0,
        text.vocab_size * text.hidden_size,
        text.num_hidden_layers,
        text.hidden_size,
        length,
        recompute,
    )
    # The rotary table is one small product more; a checkpoint stops before a layer's last one.
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.06 if recompute else 0.01)


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
    with pytest.raises(UserError, match="not a multiple of micro_batch_size 5 × 1 GPUs"):
        make_plan(config, None, 1, 10**12)


def test_the_command_prints_a_table_and_writes_it(world, tmp_path, capsys):
    config = write_phase(tmp_path / "mllm.yaml", world.phase(tmp_path / "run"))
    command = ["plan", "--config", str(config), "--gpus", "2", "--gpu-memory", "1GiB"]
    assert cli.main([*command, "--out", str(tmp_path / "plan.json")]) == 0
    shown = capsys.readouterr().out
    assert "image tokenizer (frozen)" in shown and "2 × language_model" in shown
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["gpu_memory"] == 2**30 and len(plan["shardings"]) == 7
    assert sum(placement["chosen"] for placement in plan["shardings"]) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpus", "3"], "global_batch_size 4 is not a multiple of 3 GPUs"),
        (["--gpu-memory", "much"], "give a size such as 80G"),
        (["model=nowhere"], "give the settings of init-mllm with --init FILE"),
        (["--out", "nowhere/plan.json"], "no such folder: nowhere"),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(world, tmp_path, capsys, arguments, message):
    config = write_phase(tmp_path / "mllm.yaml", world.phase(tmp_path / "run"))
    assert cli.main(["plan", "--config", str(config), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_language_model_of_unknown_sizes_is_one_sentence(tmp_path):
    init = InitSettings(tokenizer=tmp_path / "none", out=tmp_path, llm="some/model")
    with pytest.raises(UserError, match=r"some/model are not known here; write its text_config"):
        read_model_config(tmp_path / "none", init)
    init.text_config = {"model_type": "llama", "hiden_size": 8}
    with pytest.raises(UserError, match=r"text_config\.hiden_size is not a field"):
        read_model_config(tmp_path / "none", init)


@pytest.mark.slow
def test_bytes_are_what_deepspeed_holds(world):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += ["--master_port", str(free_port()), "-m", "tests.mllm.deepspeed_bytes"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    finished = subprocess.run(
        [*command, str(world.start)],
        cwd=CONFIGS.parents[1], env=environment, capture_output=True, text=True,
    )  # fmt: skip
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
