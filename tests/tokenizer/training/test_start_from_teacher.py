"""The pixel encoder as a copy of the teacher."""

import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from runtime.errors import UserError
from tokenizer.training.start_from_teacher import start_from_teacher
from tokenizer.training.teacher import build_model

NORMALISATION = {"teacher_mean": [0.48, 0.46, 0.41], "teacher_std": [0.27, 0.26, 0.28]}


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
        ({"pixel_stem": "conv"}, "pixel_stem 'patch'"),
        ({"pixel_encoder_layers": 3}, "has 3 layers and the teacher 2"),
        ({"pixel_attention_heads": 4}, "pixel_attention_heads 4: set it to 2"),
        ({"pixel_hidden_size": 32}, "pixel_hidden_size 32: set it to 16"),
        ({"inside": 32}, "32 wide inside, not 4 times 16"),
        ({"pixel_encoder_kind": "conv", "pixel_hidden_size": 128}, "pixel_encoder_kind 'vit'"),
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
    with pytest.raises(UserError, match="Dinov2Model, whose layers are built otherwise"):
        start_from_teacher(model)
