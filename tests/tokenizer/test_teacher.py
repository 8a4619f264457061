import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    LlamaConfig,
    LlamaModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from semhitok.errors import UserError
from tokenizer.teacher import build_model, load_teacher, trainable


@pytest.fixture(scope="module")
def teacher_folder(vision_fields, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    SiglipVisionModel(SiglipVisionConfig(**vision_fields)).save_pretrained(folder)
    return str(folder)


def refusal(teacher, fields):
    with pytest.raises(UserError) as refused:
        build_model(teacher, fields)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_the_model_holds_the_teachers_weights_frozen(teacher_folder, model_fields):
    model = build_model(teacher_folder, model_fields)
    given = load_teacher(teacher_folder).state_dict()
    for name, tensor in model.teacher.state_dict().items():
        assert torch.equal(tensor, given[name])
    assert not any(parameter.requires_grad for parameter in model.teacher.parameters())
    assert model.config.num_image_codes == 32


@pytest.mark.parametrize(
    ("model_class", "config_class", "width_of_mlp"),
    [
        (CLIPVisionModel, CLIPVisionConfig, "intermediate_size"),
        (Dinov2Model, Dinov2Config, None),
    ],
)
@pytest.mark.parametrize("size", [32, 48])
def test_teachers_with_class_tokens_give_one_feature_a_patch(
    model_class, config_class, width_of_mlp, size, vision_fields, model_fields, tmp_path
):
    fields = dict(vision_fields)
    if width_of_mlp is None:
        del fields["intermediate_size"]
    model_class(config_class(**fields)).save_pretrained(tmp_path)
    model = build_model(str(tmp_path), model_fields).eval()
    images = torch.rand(2, 3, size, size) * 2 - 1
    assert model.teacher_features(images).shape == (2, (size // 8) ** 2, 16)
    assert model.encode(images).flat.shape == (2, (size // 8) ** 2)


def test_an_inner_layer_can_be_read(teacher_folder, model_fields):
    last = build_model(teacher_folder, model_fields).eval()
    inner = build_model(teacher_folder, model_fields | {"teacher_layer": -2}).eval()
    images = torch.rand(2, 3, 32, 32)
    assert inner.teacher_features(images).shape == (2, 16, 16)
    assert not torch.equal(inner.teacher_features(images), last.teacher_features(images))


def test_an_unknown_teacher(model_fields, tmp_path):
    assert "No vision encoder can be loaded" in refusal(str(tmp_path / "nowhere"), model_fields)


def test_a_teacher_without_patches(model_fields, tmp_path):
    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        vocab_size=32,
    )
    LlamaModel(config).save_pretrained(tmp_path)
    assert "no patch features" in refusal(str(tmp_path), model_fields)


def test_cut_weights_of_a_teacher(vision_fields, model_fields, tmp_path):
    SiglipVisionModel(SiglipVisionConfig(**vision_fields)).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:3000])
    assert "No vision encoder can be loaded" in refusal(str(tmp_path), model_fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_semantic_code": 8}, "did you mean num_semantic_codes?"),
        ({"patch_size": 16}, "cuts patches of 8 pixels and model.patch_size is 16"),
        ({"image_size": 30}, "image_size 30 is not divisible"),
        ({"image_size": "32"}, "does not fit"),
        ({"pixel_stem": "magic"}, "does not fit"),
        ({"semantic_attention_heads": 3}, "does not fit"),
        ({"num_pixel_codes": 0}, "num_pixel_codes"),
        ({"teacher_config": {}}, "teacher_config"),
    ],
    ids=str,
)
def test_model_sections_that_do_not_fit(teacher_folder, model_fields, fields, message):
    assert message in refusal(teacher_folder, model_fields | fields)


def test_a_convolutional_stem_wants_a_power_of_two(vision_fields, model_fields, tmp_path):
    fields = vision_fields | {"patch_size": 6, "image_size": 36}
    SiglipVisionModel(SiglipVisionConfig(**fields)).save_pretrained(tmp_path)
    own = model_fields | {"patch_size": 6, "image_size": 36}
    assert "power of two, not 6" in refusal(str(tmp_path), own)
    plain = own | {"pixel_stem": "patch", "decoder_head": "patch"}
    assert build_model(str(tmp_path), plain).config.num_image_positions == 36


def test_trainable_frees_the_named_parts_alone(tiny_model):
    model = tiny_model()
    parameters = trainable(model, "decoder")
    free = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(parameters) == len(free) > 0
    assert all(name.startswith("decoder.") for name in free)
