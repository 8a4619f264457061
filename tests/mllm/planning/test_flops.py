import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mllm.planning.flops import flops_per_sequence
from mllm.saved.load import load_model


@pytest.mark.parametrize("recompute", [False, True])
def test_flops_are_what_torch_counts(world, recompute):
    unified, length = load_model(world.start), 32
    model = unified.language_model
    if recompute:
        model.activation_checkpointing_enable({"use_reentrant": False})
        model.train()
    model.set_attn_implementation("eager")
    token_ids = torch.zeros(1, length, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        embeddings = model.get_input_embeddings()(token_ids)
        hidden = model.get_decoder()(inputs_embeds=embeddings, use_cache=False).last_hidden_state
        model.lm_head(hidden).sum().backward()
    assert len(model.lm_head.weight) > len(unified.image_head.rows.weight)
    settings = world.phase("out", max_seq_length=length)
    counted = flops_per_sequence(unified, settings, recompute)
    # The rotary table is one small product more; a checkpoint stops before a layer's last one.
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.06 if recompute else 0.01)
