"""QLoRA: a base of 4-bit matrices that training leaves as they are, on a CPU."""

import pytest
import torch

from mllm.phase.lora_phase import load_for_lora
from mllm.phase.settings import LoRASettings
from mllm.planning.memory import four_bit_bytes
from mllm.planning.model import in_four_bits, planned_model
from mllm.planning.plan import make_plan
from mllm.saved.export import merge_lora
from mllm.saved.load import load_model, load_processor
from mllm.training.train import train_mllm
from runtime.errors import UserError
from tests.mllm.tiny import REPOSITORY, losses_of
from tests.mllm.training.test_train import interrupt

QLORA = LoRASettings(rank=2, alpha=4.0, dropout=0.1, load_in_4bit=True)
ZERO3 = REPOSITORY / "configs" / "deepspeed" / "zero3.json"


def phase(world, out, **settings):
    return world.phase(out, **{"lora": QLORA, "checkpoint_every": 5, **settings})


def test_zero_3_over_four_bits_is_one_sentence(world, tmp_path):
    config = phase(world, tmp_path / "run", deepspeed=ZERO3)
    with pytest.raises(UserError, match=r"packs the matrices that ZeRO-3 .* would cut up; take"):
        train_mllm(config)
    with pytest.raises(UserError, match="packs the matrices that ZeRO-3"):
        make_plan(config, None, 2, 10**9)


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    """A finished run of 12 steps."""
    pytest.importorskip("bitsandbytes")
    return train_mllm(phase(world, tmp_path_factory.mktemp("qlora")))


def test_training_over_four_bits_learns_and_saves_the_whole_base(world, trained):
    before, after = load_model(world.start).state_dict(), load_model(trained).state_dict()
    for name, value in after.items():
        if "lora_" in name or name.startswith("new_rows."):
            continue
        fresh = name.startswith(("adapter.", "image_head."))
        assert torch.equal(value, before[name.replace(".base_layer", "")]) != fresh, name
    b_matrices = [value for name, value in after.items() if "lora_B" in name]
    assert b_matrices and all(value.any() for value in b_matrices)
    losses = losses_of(trained.parent)
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])


def test_an_interrupted_run_over_four_bits_ends_as_an_undisturbed_one(world, trained, tmp_path):
    interrupt(phase(world, tmp_path))
    assert (tmp_path / "checkpoints" / "checkpoint-5").is_dir()
    resumed = load_model(train_mllm(phase(world, tmp_path))).state_dict()
    whole = load_model(trained).state_dict()
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_a_second_phase_packs_the_base_and_not_the_layers(world, trained, tmp_path):
    tokenizer = load_processor(trained).tokenizer
    model = load_for_lora(trained, QLORA, tokenizer, 0)
    lora = {n: p for n, p in model.named_parameters() if "lora_" in n}
    stored = load_model(trained).state_dict()
    assert lora and all(torch.equal(p, stored[n]) for n, p in lora.items())
    again = train_mllm(phase(world, tmp_path, model=trained, num_steps=3))
    assert load_model(merge_lora(again, tmp_path / "merged")).config.lora is None


def test_bytes_are_what_torch_holds(world, tmp_path):
    pytest.importorskip("bitsandbytes")
    config = phase(world, tmp_path / "run")
    model = load_for_lora(world.start, QLORA, load_processor(world.start).tokenizer, 0)
    packed = [p for p in model.parameters() if hasattr(p, "quant_state")]
    planned = planned_model(config, None)
    small = in_four_bits(planned, config)
    assert len(packed) == len(small) > 0
    for real, plan in zip(packed, small, strict=True):
        state = real.quant_state
        tensors = (real, state.absmax, state.code, state.offset, state.state2.absmax,
                   state.state2.code)  # fmt: skip
        assert sum(t.numel() * t.element_size() for t in tensors) == four_bit_bytes(plan.numel())
    whole = sum(p.nbytes for p in model.parameters() if not hasattr(p, "quant_state"))
    held = make_plan(config, None, 1, 10**9).shardings[0].states
    assert held.weights == whole + sum(four_bit_bytes(p.numel()) for p in small)
    plain = make_plan(config.model_copy(update={"lora": None}), None, 1, 10**9)
    assert held.weights < plain.shardings[0].states.weights
