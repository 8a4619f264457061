import pytest

from mllm.init.settings import InitSettings
from mllm.planning.model import (
    optimizer_groups,
    parts,
    read_model_config,
)
from runtime.errors import UserError
from runtime.value_types import anywhere


def test_parts_are_the_saved_models(tiny):
    _, model, planned = tiny
    shapes = [
        {name: (p.shape, p.requires_grad) for name, p in m.named_parameters()}
        for m in (model, planned)
    ]
    assert shapes[0] == shapes[1]
    assert sum(parts(planned).values()) == sum(p.numel() for p in model.parameters())


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


@pytest.mark.parametrize("rule", ["adamw", "muon"])
def test_groups_are_the_trainers(world, tiny, rule, tmp_path):
    from mllm.training.arguments import training_arguments
    from mllm.training.trainer import UnifiedTrainer

    config, model, planned = tiny
    config.optimizer = rule
    trainer = UnifiedTrainer(
        settings=config,
        model=model,
        args=training_arguments(config),
    )
    names = {id(p): name for name, p in model.named_parameters()}
    real = [
        (group["weight_decay"] > 0, [names[id(p)] for p in group["params"]])
        for group in trainer.create_optimizer().param_groups
    ]
    assert [(g.decays, g.names) for g in optimizer_groups(planned, config)] == real


def test_a_language_model_of_unknown_sizes_is_one_sentence(tmp_path):
    with anywhere():
        init = InitSettings(tokenizer=tmp_path / "none", out=tmp_path, llm="some/model")
    with pytest.raises(UserError, match=r"some/model are not known here; write its text_config"):
        read_model_config(tmp_path / "none", init)
    init.text_config = {"model_type": "llama", "hiden_size": 8}
    with pytest.raises(UserError, match=r"text_config\.hiden_size is not a field"):
        read_model_config(tmp_path / "none", init)
