import dataclasses
import json

import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    ConvNextConfig,
    ConvNextModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    LlamaConfig,
    LlamaModel,
    Siglip2VisionConfig,
    Siglip2VisionModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    SwinConfig,
    SwinModel,
    ViTConfig,
    ViTModel,
)

from runtime.errors import UserError
from tokenizer.model.patch_features import patch_features
from tokenizer.saved.encoders import load_teacher
from tokenizer.saved.model_folder import load_tokenizer, save_tokenizer
from tokenizer.training.new_model import build_model, train_only


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


# What of its output comes before the patches: class and register tokens.
ENCODERS = {
    "siglip": (SiglipVisionModel, SiglipVisionConfig, {}, 0),
    "siglip2": (Siglip2VisionModel, Siglip2VisionConfig, {"num_patches": 16}, 0),
    "clip": (CLIPVisionModel, CLIPVisionConfig, {}, 1),
    "dinov2": (Dinov2Model, Dinov2Config, {}, 1),
    "dinov2 with registers": (
        Dinov2WithRegistersModel,
        Dinov2WithRegistersConfig,
        {"num_register_tokens": 2},
        3,
    ),
    "dinov3": (DINOv3ViTModel, DINOv3ViTConfig, {"num_register_tokens": 4}, 5),
    "vit": (ViTModel, ViTConfig, {}, 1),
}


def tiny_encoder(name, vision_fields):
    """A random encoder of one layer, and how many of its tokens are no patches."""
    model_class, config_class, own, num_extra = ENCODERS[name]
    fields = dict(vision_fields)
    for unknown in fields.keys() - {field.name for field in dataclasses.fields(config_class)}:
        del fields[unknown]
    torch.manual_seed(0)
    return model_class(config_class(**fields | own)).eval(), num_extra


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["siglip", "clip", "dinov2"])
def test_an_encoder_runs_in_its_own_dtype_under_autocast(name, dtype, vision_fields):
    encoder = tiny_encoder(name, vision_fields)[0].to(dtype)
    images = torch.randn(2, 3, 32, 32)
    alone = patch_features(encoder, images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = patch_features(encoder, images)
    assert features.dtype == torch.float32
    assert torch.equal(features, alone)


@pytest.mark.parametrize("size", [(32, 32), (48, 48), (24, 40)], ids=str)
@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_gives_one_feature_a_patch(name, size, vision_fields, model_fields, tmp_path):
    encoder, _ = tiny_encoder(name, vision_fields)
    encoder.save_pretrained(tmp_path)
    model = build_model(str(tmp_path), model_fields).eval()
    images = torch.rand(2, 3, *size) * 2 - 1
    num_positions = size[0] // 8 * (size[1] // 8)
    assert model.teacher_features(images).shape == (2, num_positions, 16)
    assert model.encode(images).flat.shape == (2, num_positions)
    assert not any(p.requires_grad for p in model.teacher.parameters())


@pytest.mark.parametrize("name", [name for name in ENCODERS if name != "siglip2"])
def test_features_are_the_encoders_own_patches(name, vision_fields):
    encoder, num_extra = tiny_encoder(name, vision_fields)
    pixels = torch.randn(2, 3, 32, 32)
    own = encoder(pixel_values=pixels, output_hidden_states=True)
    assert own.last_hidden_state.shape[1] == 16 + num_extra
    expected = own.last_hidden_state[:, num_extra:]
    assert torch.equal(patch_features(encoder, pixels), expected)
    expected = own.hidden_states[-2][:, num_extra:]
    assert torch.equal(patch_features(encoder, pixels, -2), expected)


def test_patches_are_cut_as_naflex_processors_cut_them(vision_fields):
    encoder, _ = tiny_encoder("siglip2", vision_fields)
    pixels = torch.randn(2, 3, 16, 24)
    rows = [
        pixels[:, :, y : y + 8, x : x + 8].permute(0, 2, 3, 1).flatten(1)
        for y in (0, 8)
        for x in (0, 8, 16)
    ]
    expected = encoder(
        pixel_values=torch.stack(rows, 1),
        pixel_attention_mask=torch.ones(2, 6, dtype=torch.int64),
        spatial_shapes=torch.tensor([[2, 3], [2, 3]]),
    ).last_hidden_state
    assert torch.allclose(patch_features(encoder, pixels), expected, atol=1e-6)


def test_the_native_size_is_reproduced_exactly(vision_fields, model_fields, tmp_path):
    encoder, _ = tiny_encoder("siglip", vision_fields)
    encoder.save_pretrained(tmp_path)
    model = build_model(str(tmp_path), model_fields).eval()
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    # Without any interpolation of positions.
    assert torch.equal(
        model.teacher_features(images), encoder(pixel_values=images).last_hidden_state
    )


def test_the_teacher_is_held_in_the_dtype_asked_for(teacher_folder, model_fields, tmp_path):
    full = build_model(teacher_folder, model_fields).eval()
    model = build_model(teacher_folder, model_fields | {"teacher_dtype": "bfloat16"}).eval()
    assert {p.dtype for p in model.teacher.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.decoder.parameters()} == {torch.float32}
    assert model.dtype == torch.float32
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    features = model.teacher_features(images)
    assert features.dtype == torch.float32
    expected = full.teacher_features(images)
    assert not torch.equal(features, expected)
    assert torch.allclose(features, expected, atol=0.1)
    save_tokenizer(model, tmp_path)
    loaded = load_tokenizer(tmp_path).eval()
    assert {name: p.dtype for name, p in loaded.named_parameters()} == {
        name: p.dtype for name, p in model.named_parameters()
    }
    assert torch.equal(loaded.encode(images).flat, model.encode(images).flat)


def test_the_normalisation_is_read_from_the_teachers_folder(vision_fields, model_fields, tmp_path):
    encoder, _ = tiny_encoder("clip", vision_fields)
    encoder.save_pretrained(tmp_path)
    assert build_model(str(tmp_path), model_fields).config.teacher_mean == (0.5, 0.5, 0.5)
    settings = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    model = build_model(str(tmp_path), model_fields)
    assert model.config.teacher_mean == [0.4, 0.5, 0.6]
    assert model.config.teacher_std == [0.2, 0.3, 0.4]
    own = build_model(str(tmp_path), model_fields | {"teacher_mean": [0.1, 0.2, 0.3]})
    assert own.config.teacher_mean == [0.1, 0.2, 0.3]


def test_an_inner_layer_can_be_read(teacher_folder, model_fields):
    last = build_model(teacher_folder, model_fields).eval()
    inner = build_model(teacher_folder, model_fields | {"teacher_layer": -2}).eval()
    images = torch.rand(2, 3, 32, 32)
    assert inner.teacher_features(images).shape == (2, 16, 16)
    assert not torch.equal(inner.teacher_features(images), last.teacher_features(images))


def test_an_unknown_teacher(model_fields, tmp_path):
    assert "no vision encoder can be loaded" in refusal(str(tmp_path / "nowhere"), model_fields)


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


def test_a_pyramid_without_a_feature_for_each_patch(model_fields, tmp_path):
    config = SwinConfig(image_size=32, patch_size=8, embed_dim=16, depths=[1, 1], num_heads=[1, 2])
    SwinModel(config).save_pretrained(tmp_path)
    assert "no patch features" in refusal(str(tmp_path), model_fields)


def test_a_convolutional_teacher(model_fields, tmp_path):
    config = ConvNextConfig(num_stages=2, hidden_sizes=[8, 16], depths=[1, 1])
    ConvNextModel(config).save_pretrained(tmp_path)
    assert "no patch features" in refusal(str(tmp_path), model_fields)


@pytest.mark.parametrize("layer", [2, -3])
def test_a_layer_that_the_teacher_does_not_have(teacher_folder, model_fields, layer):
    sentence = refusal(teacher_folder, model_fields | {"teacher_layer": layer})
    assert f"teacher_layer {layer} is not a layer of" in sentence


def test_cut_weights_of_a_teacher(vision_fields, model_fields, tmp_path):
    SiglipVisionModel(SiglipVisionConfig(**vision_fields)).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:3000])
    assert "no vision encoder can be loaded" in refusal(str(tmp_path), model_fields)


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
        ({"pixel_code_dim": 17}, "pixel_code_dim 17 is larger than the encoder's width"),
        ({"teacher_dtype": "int8"}, "does not fit"),
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


def test_train_only_frees_the_named_parts_alone(tiny_model):
    model = tiny_model()
    train_only(model, "decoder")
    free = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert free == {f"decoder.{name}" for name, _ in model.decoder.named_parameters()}
