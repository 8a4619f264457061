import pytest
import torch

from mllm.planning.activations import activations


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
