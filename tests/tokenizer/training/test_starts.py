"""Initial weights that are not random: cosines, a plain decoder's, a teacher's."""

import pytest
import torch
from torch import nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from runtime.errors import UserError
from tokenizer.model.configuration_semhitok import SemHiTokConfig
from tokenizer.model.pixel_networks import CodeDecoder
from tokenizer.training.new_model import build_model
from tokenizer.training.starts import grow_decoder, start_from_cosines, start_from_teacher

NORMALISATION = {"teacher_mean": [0.48, 0.46, 0.41], "teacher_std": [0.27, 0.26, 0.28]}
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


@pytest.fixture
def build(vision_fields, model_fields, tmp_path):
    """Builds a model around a random two-layer SigLIP, with a `patch` stem."""

    def model(inside=64, **fields):
        torch.manual_seed(0)
        wider = {"num_hidden_layers": 2, "intermediate_size": inside}
        teacher = SiglipVisionConfig(**vision_fields | wider)
        SiglipVisionModel(teacher).save_pretrained(tmp_path)
        own = {"pixel_stem": "patch", "pixel_encoder_layers": 2} | NORMALISATION
        return build_model(str(tmp_path), model_fields | own | fields).eval()

    return model


def below_the_head(model, images):
    encoder = model.pixel_encoder
    return encoder.trunk(encoder.stem(images), model.grid(images))


def test_with_all_layers_it_is_the_teacher(build, random_images):
    model, images = build(), random_images()
    expected = model.teacher_features(images)
    assert not torch.allclose(below_the_head(model, images), expected, atol=0.1)
    start_from_teacher(model)
    assert torch.allclose(below_the_head(model, images), expected, atol=1e-4)


def test_with_fewer_layers_it_is_the_teachers_first(build, random_images):
    model, images = build(pixel_encoder_layers=1, teacher_layer=-2), random_images()
    start_from_teacher(model)
    model.pixel_encoder.trunk.norm = torch.nn.Identity()
    assert torch.allclose(below_the_head(model, images), model.teacher_features(images), atol=1e-4)


def test_positions_are_fitted_to_another_grid(build, random_images):
    model = build(image_size=64)
    start_from_teacher(model)
    assert model.pixel_encoder.trunk.positions.table.shape == (1, 16, 8, 8)
    assert torch.isfinite(model.pixel_vectors(random_images(1, 64, 64))).all()


def test_a_clip_teachers_layers_are_taken_too(vision_fields, model_fields, tmp_path):
    CLIPVisionModel(CLIPVisionConfig(**vision_fields | {"intermediate_size": 64})).save_pretrained(
        tmp_path
    )
    model = build_model(str(tmp_path), model_fields | {"pixel_stem": "patch"})
    start_from_teacher(model)
    given = model.teacher.state_dict()
    own = model.pixel_encoder.trunk.blocks.layers[0].mlp.fc1.weight
    (name,) = (name for name in given if name.endswith("encoder.layers.0.mlp.fc1.weight"))
    assert torch.equal(own, given[name])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pixel_stem": "conv"}, "pixel_stem is 'conv'; set it to 'patch'"),
        ({"pixel_encoder_layers": 3}, "pixel_encoder_layers is 3, and the teacher has 2 layers"),
        ({"pixel_attention_heads": 4}, "pixel_attention_heads is 4; set it to 2"),
        ({"pixel_hidden_size": 32}, "pixel_hidden_size is 32; set it to 16"),
        ({"inside": 32}, "32 wide inside, not 4 times 16"),
        (
            {"pixel_encoder_kind": "conv", "pixel_hidden_size": 128},
            "pixel_encoder_kind is 'conv'; set it to 'vit'",
        ),
    ],
    ids=str,
)
def test_what_does_not_fit_is_one_sentence(build, fields, message):
    with pytest.raises(UserError, match=message) as refused:
        start_from_teacher(build(**fields))
    assert "\n" not in str(refused.value)


def test_a_teacher_built_otherwise(vision_fields, model_fields, tmp_path):
    fields = {k: v for k, v in vision_fields.items() if k != "intermediate_size"}
    Dinov2Model(Dinov2Config(**fields)).save_pretrained(tmp_path)
    model = build_model(str(tmp_path), model_fields | {"pixel_stem": "patch"})
    with pytest.raises(UserError, match="Dinov2Model differ from the pixel encoder"):
        start_from_teacher(model)
