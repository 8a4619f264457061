import pytest
import torch

from mllm.phase.parameter_groups import PARTS, part_of
from mllm.phase.settings import LearningRateMultipliers, PhaseSettings
from mllm.training.train import train_mllm
from runtime.metrics_log import read_metrics
from runtime.settings import load_settings
from tests.mllm.tiny import make_model
from tests.mllm.training.test_train import weights


def test_align_moves_the_adapter_and_the_new_rows_alone(file, world, tmp_path):
    train_mllm(load_settings(PhaseSettings, file, ["phase=align"]))
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
