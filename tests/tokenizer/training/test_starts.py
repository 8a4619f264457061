"""Initial weights that are not random: cosines, a plain decoder's."""

import pytest
import torch
from torch import nn

from runtime.errors import UserError
from tokenizer.model.configuration_semhitok import SemHiTokConfig
from tokenizer.model.pixel_networks import CodeDecoder
from tokenizer.training.starts import grow_decoder, start_from_cosines

TEACHER = {
    "model_type": "siglip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "image_size": 16,
    "patch_size": 8,
}
CONFIG = SemHiTokConfig(
    teacher_config=TEACHER,
    image_size=16,
    patch_size=8,
    semantic_code_dim=4,
    pixel_code_dim=4,
    decoder_head="conv",
)


def decoder(width: int, num_layers: int) -> CodeDecoder:
    return CodeDecoder(CONFIG, width, num_layers, num_heads=2)


@pytest.mark.parametrize("num_shared", [0, 1])
def test_a_grown_decoder_is_the_plain_one_and_then_learns_on_its_own(num_shared: int):
    torch.manual_seed(0)
    plain, deeper = decoder(16, num_shared), decoder(16, num_shared + 2)
    vectors = torch.randn(2, 4, 8)
    with torch.no_grad():
        before = deeper(vectors, (2, 2))
    grow_decoder(plain, deeper)
    after = deeper(vectors, (2, 2))
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, plain(vectors, (2, 2)))
    after.square().sum().backward()
    assert deeper.trunk.blocks.layers[-1].mlp.fc2.weight.grad.abs().sum() > 0


def test_a_decoder_of_another_width_cannot_grow():
    with pytest.raises(UserError, match="start_from_decoder"):
        grow_decoder(decoder(8, 1), decoder(16, 2))


def test_cosine_filters_are_orthonormal_and_begin_with_the_lowest_frequencies():
    weight = nn.Parameter(torch.randn(48, 3, 8, 8))
    start_from_cosines(weight)
    flat = weight.detach().flatten(1)
    torch.testing.assert_close(flat @ flat.T, torch.eye(48), atol=1e-5, rtol=0)
    # The first three filters are the mean of each colour channel.
    assert all(torch.allclose(weight[c, c], torch.full((8, 8), 1 / 8)) for c in range(3))
