import pytest

from mllm.drawing.public_model import UnifiedForConditionalGeneration
from mllm.phase.lora_phase import load_for_lora
from mllm.phase.settings import LoRASettings
from mllm.planning.model import (
    build_on_meta,
    planned_model,
    read_model_config,
)
from mllm.saved.load import load_model, load_processor
from tests.mllm.tiny import make_model

LORA = LoRASettings(rank=2, alpha=4.0)


@pytest.fixture
def tiny(world, tmp_path):
    """A trained step's worth of everything: config, real model, model on the meta device."""
    config = world.phase(tmp_path / "run")
    return config, load_model(world.start), build_on_meta(read_model_config(world.start, None))


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
