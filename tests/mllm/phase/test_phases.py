"""Phases of one file, the parts that train in each, and dry runs of all shipped configs."""

from pathlib import Path

import pytest
import torch

import semhitok
from mllm.phase.parameter_groups import PARTS, part_of
from mllm.phase.settings import LearningRateMultipliers, PhaseSettings
from mllm.training.train import train_mllm
from runtime.errors import UserError
from runtime.metrics_log import read_metrics
from runtime.yaml_values import read_values
from semhitok import main as cli
from tests.mllm.tiny import make_model, write_phase
from tests.mllm.training.test_train import weights

ROOT = Path(semhitok.__file__).parents[1]
SHIPPED = [
    (path, phase)
    for path in sorted((ROOT / "configs" / "mllm").glob("*/mllm.yaml"))
    for phase in read_values(path).get("phases", [None])
    if path.with_name("init_mllm.yaml").is_file()
]
THREE = """
model: {model}
data: {data}
codes: {codes}
num_steps: 4
global_batch_size: 4
learning_rate: 3.0e-3
max_seq_length: 64
log_every: 1
use_cpu: true
phases:
  align:
    out: {out}/align
    learning_rate_multipliers: {{layers: 0, embed_tokens: 0}}
  sft:
    out: {out}/sft
    learning_rate: 1.0e-3
    mixture: {{answer_weight: 2.0}}
"""


@pytest.fixture
def file(world, tmp_path):
    path = tmp_path / "mllm.yaml"
    path.write_text(
        THREE.format(model=world.start, data=world.data, codes=world.codes, out=tmp_path)
    )
    return path


def test_a_phase_is_the_file_with_its_section_and_then_the_overrides(file, tmp_path):
    align, sft = (PhaseSettings.load(file, [f"phase={name}"]) for name in ("align", "sft"))
    assert (align.phase, align.out, align.learning_rate) == ("align", tmp_path / "align", 3e-3)
    assert align.learning_rate_multipliers == LearningRateMultipliers(layers=0, embed_tokens=0)
    assert (sft.learning_rate, sft.mixture.answer_weight) == (1e-3, 2.0)
    assert sft.learning_rate_multipliers == LearningRateMultipliers()
    assert PhaseSettings.load(file, ["phase=sft", "learning_rate=5"]).learning_rate == 5


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], r"has several phases; add phase=align\|sft$"),
        (["phase=pretrain"], r"add phase=align\|sft, not pretrain$"),
    ],
)
def test_an_unknown_phase_is_one_sentence(file, overrides, message):
    with pytest.raises(UserError, match=message):
        PhaseSettings.load(file, overrides)


def test_a_slip_in_a_section_that_is_not_chosen_is_found(file):
    file.write_text(file.read_text().replace("answer_weight", "answer_wait"))
    with pytest.raises(UserError, match=r'phase=sft\): unknown key "mixture.answer_wait"; did you'):
        PhaseSettings.load(file, ["phase=align"])


def test_align_moves_the_adapter_and_the_new_rows_alone(file, world, tmp_path):
    train_mllm(PhaseSettings.load(file, ["phase=align"]))
    before, after = weights(world.start), weights(tmp_path / "align" / "model")
    moved = {part_of(name) for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"image_adapter", "image_head"}
    assert read_metrics(tmp_path / "align")[-1]["learning_rate_layers"] == 0.0


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_parts_learn_at_their_own_rates(world, tmp_path, optimizer):
    rates = LearningRateMultipliers(image_adapter=2.0, image_head=0.5, embed_tokens=0)
    config = world.phase(
        tmp_path / "run", num_steps=3, learning_rate_multipliers=rates, optimizer=optimizer
    )
    train_mllm(config)
    line = read_metrics(tmp_path / "run")[-1]
    base = line["learning_rate"]
    assert 0 < base <= config.learning_rate
    for part, rate in dict(rates).items():
        assert line[f"learning_rate_{part}"] == pytest.approx(rate * base)
    before, after = weights(world.start), weights(tmp_path / "run" / "model")
    moved = {part_of(name) for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"image_adapter", "image_head", "layers"}


def test_every_parameter_has_a_part(world):
    model = make_model(world)
    for name, parameter in model.named_parameters():
        assert (part_of(name) in PARTS) == parameter.requires_grad, name
    ends = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    for name, parameter in model.named_parameters():
        assert (part_of(name) == "embed_tokens") == (id(parameter) in ends), name


@pytest.mark.parametrize(
    ("path", "phase"), SHIPPED, ids=[f"{path.parent.name}-{phase}" for path, phase in SHIPPED]
)
def test_every_shipped_config_is_planned(path, phase, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    chosen = [] if phase is None else [f"phase={phase}"]
    settings = PhaseSettings.load(path, chosen)
    assert cli.main(["plan", "--config", str(path), *chosen]) == 0
    shown = capsys.readouterr().out
    frozen = sum(line.endswith("frozen") for line in shown.splitlines())
    tied = "tie_word_embeddings: true" in path.with_name("init_mllm.yaml").read_text()
    lora = settings.lora is not None
    assert frozen == (4 if lora or phase == "align" else 1), shown
    assert ("LoRA: rank" in shown) == ("lora_A" in shown) == lora
    assert "optimiser group: adamw, decays" in shown and "× image_head" in shown
    assert ("× language_model" in shown) == (phase != "align")
    assert f"phase: {phase or 'the only one'}" in shown and "hidden states" in shown
    groups = shown[shown.index("optimiser group") :]
    assert ("lm_head" in groups) == (not tied and phase != "align")


def test_a_plan_of_a_run_writes_nothing(world, tmp_path, capsys):
    config = write_phase(tmp_path / "mllm.yaml", world.phase(tmp_path / "run"))
    assert cli.main(["plan", "--config", str(config)]) == 0
    assert "plain data parallel" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
