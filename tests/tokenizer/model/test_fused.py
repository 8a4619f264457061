"""Fused linear layers compute the same, share the model's parameters, and give the same codes."""

import pytest
import torch
from torch import nn
from transformers import SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipMLP

from data_pipelines.loading.dataset import PreparedDataset
from tokenizer.extraction.extract import encode_shards
from tokenizer.model import fused
from tokenizer.model.fused import FusedLinear, with_fused_linears
from tokenizer.model.layers import feature_head

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="torch is built without oneDNN here"
)


def mlp(activation):
    return SiglipMLP(
        SiglipVisionConfig(hidden_size=48, intermediate_size=100, hidden_act=activation)
    )


@pytest.mark.parametrize("bias", [True, False])
@torch.inference_mode()
def test_a_fused_product_is_the_product(bias):
    torch.manual_seed(0)
    linear = nn.Linear(33, 50, bias=bias)
    inputs = [torch.randn(1, 33), torch.randn(70, 33), torch.randn(2, 5, 33)]
    inputs.append(torch.randn(2, 33, 6).transpose(1, 2))  # as convolutions leave it
    for vectors in inputs:
        torch.testing.assert_close(FusedLinear(linear)(vectors), linear(vectors))


@pytest.mark.parametrize("activation", ["gelu", "gelu_pytorch_tanh", "quick_gelu", "relu"])
@torch.inference_mode()
def test_the_activation_of_a_block_stays_what_it_is(activation):
    torch.manual_seed(0)
    block, inputs = mlp(activation), 3 * torch.randn(2, 7, 48)
    quick = with_fused_linears(block)
    torch.testing.assert_close(quick(inputs), block(inputs))
    is_fused = isinstance(quick.activation_fn, nn.Identity)
    assert is_fused == activation.startswith("gelu")


@torch.inference_mode()
def test_the_activation_of_a_head_is_fused():
    torch.manual_seed(0)
    head, inputs = feature_head(20, 30, 4), torch.randn(2, 7, 20)
    quick = with_fused_linears(head)
    assert [type(part) for part in quick] == [FusedLinear, nn.Identity, FusedLinear]
    torch.testing.assert_close(quick(inputs), head(inputs))


def test_the_copy_shares_parameters_and_leaves_the_module_alone():
    block = mlp("gelu_pytorch_tanh")
    parts = [type(part) for part in block.modules()]
    quick = with_fused_linears(block)
    assert [type(part) for part in block.modules()] == parts
    assert all(a is b for a, b in zip(block.parameters(), quick.parameters(), strict=True))


@torch.inference_mode()
def test_layers_in_other_numbers_stay_as_they_are():
    block = mlp("gelu").to(torch.bfloat16)
    block.fc2.float()
    quick = with_fused_linears(block)
    assert [type(part) for part in (quick.fc1, quick.fc2)] == [nn.Linear, FusedLinear]
    inputs = torch.randn(3, 48, dtype=torch.bfloat16)
    assert torch.equal(quick.activation_fn(inputs), block.activation_fn(inputs))


def test_what_is_not_for_it_comes_back(monkeypatch):
    elsewhere = nn.Linear(2, 2, device="meta")
    assert with_fused_linears(elsewhere) is elsewhere
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    here = nn.Linear(2, 2)
    assert with_fused_linears(here) is here


def test_extraction_computes_with_them_and_finds_the_model_s_codes(
    tiny_model, prepared, all_images, monkeypatch
):
    products, real = [], FusedLinear.forward

    def counted(layer, inputs):
        products.append(layer.activation[0])
        return real(layer, inputs)

    monkeypatch.setattr(fused.FusedLinear, "forward", counted)
    model = tiny_model().eval()
    expected = model.encode(all_images)
    assert not products  # the model itself, which may have to give gradients, is as it was
    dataset = PreparedDataset(prepared)
    ((semantic, pixel),) = encode_shards(model, dataset, [range(len(dataset))], 1, 8, 0)
    assert {"none", "gelu", "tanh"} == set(products)
    assert (semantic[:, 0] == expected.semantic.numpy()).all()
    assert (pixel[:, 0] == expected.pixel.numpy()).all()
