import json

import pytest
import torch
from transformers import AutoConfig, AutoModel

import tokenizer.model.modeling_semhitok  # noqa: F401  (registers the Auto classes)
from tokenizer.model.configuration_semhitok import SemHiTokConfig
from tokenizer.model.modeling_semhitok import ImageCodes, SemHiTokModel


@pytest.mark.parametrize(("num_semantic", "num_pixel"), [(16384, 12), (24576, 8), (8, 4)])
def test_every_pair_of_codes_round_trips_through_the_flat_code(num_semantic, num_pixel):
    flat = torch.arange(num_semantic * num_pixel)
    codes = ImageCodes.from_flat(flat, num_pixel)
    assert torch.equal(codes.flat, flat)
    pairs = torch.cartesian_prod(torch.arange(num_semantic), torch.arange(num_pixel))
    assert torch.equal(codes.semantic, pairs[:, 0])
    assert torch.equal(codes.pixel, pairs[:, 1])


@pytest.mark.parametrize(("num_semantic", "num_pixel"), [(16384, 12), (24576, 8)])
def test_both_readings_of_the_paper_have_its_number_of_codes(num_semantic, num_pixel):
    config = SemHiTokConfig(num_semantic_codes=num_semantic, num_pixel_codes=num_pixel)
    assert config.num_image_codes == 196_608


def test_encode_gives_codes_in_range(tiny_model, random_images):
    codes = tiny_model().encode(random_images())
    for plane, num_codes in ((codes.semantic, 8), (codes.pixel, 4), (codes.flat, 32)):
        assert plane.shape == (3, 16)
        assert plane.dtype == torch.int64
        assert plane.min() >= 0 and plane.max() < num_codes


@pytest.mark.parametrize("use_enhance_decoder", [False, True])
def test_encode_then_decode_equals_forward(tiny_model, random_images, use_enhance_decoder):
    model, images = tiny_model(use_enhance_decoder=use_enhance_decoder), random_images()
    decoded = model.decode(model.encode(images))
    assert decoded.shape == images.shape
    assert torch.equal(decoded, model(images))


def test_encoding_is_deterministic_and_independent_of_the_batch(tiny_model, random_images):
    model, images = tiny_model(), random_images()
    first, second = model.encode(images), model.encode(images)
    assert torch.equal(first.flat, second.flat)
    alone = torch.cat([model.encode(image.unsqueeze(0)).flat for image in images])
    assert torch.equal(first.flat, alone)


def test_flat_codes_decode_like_the_two_planes(tiny_model, random_images):
    model = tiny_model()
    codes = model.encode(random_images())
    assert torch.equal(model.decode(ImageCodes.from_flat(codes.flat, 4)), model.decode(codes))


@pytest.mark.parametrize(("height", "width"), [(16, 32), (48, 24), (64, 64), (8, 8)])
def test_other_sizes_and_shapes_are_encoded_and_decoded(tiny_model, random_images, height, width):
    model, images = tiny_model(), random_images(2, height, width)
    codes = model.encode(images)
    assert codes.semantic.shape == (2, height // 8 * (width // 8))
    assert model(images).shape == images.shape
    decoded = model.decode(codes, grid=(height // 8, width // 8))
    assert torch.equal(decoded, model(images))


def test_positions_are_untouched_at_the_native_size(tiny_model):
    positions = tiny_model().decoder.trunk.positions
    tokens = torch.zeros(1, 16, 16)
    expected = positions.table.flatten(2).transpose(1, 2)
    assert torch.equal(positions(tokens, (4, 4)), expected)
    assert positions(torch.zeros(1, 6, 16), (2, 3)).shape == (1, 6, 16)


@pytest.mark.parametrize(("height", "width", "odd"), [(30, 32, "30"), (32, 33, "33")])
def test_a_size_that_the_patch_does_not_divide_is_refused(
    tiny_model, random_images, height, width, odd
):
    with pytest.raises(ValueError, match=rf"{odd}.* patches of 8"):
        tiny_model().encode(random_images(1, height, width))


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(3, 32, 32),
        torch.zeros(1, 4, 32, 32),
        torch.zeros(1, 3, 32, 32, dtype=torch.uint8),
    ],
    ids=["one image", "alpha", "levels"],
)
def test_what_are_no_images_is_one_sentence(tiny_model, images):
    with pytest.raises(ValueError, match=r"must be \(B, 3, H, W\) floats") as refusal:
        tiny_model().encode(images)
    assert "\n" not in str(refusal.value)


def test_a_model_in_half_precision_takes_images_in_single(tiny_model, random_images):
    images = random_images()
    model = tiny_model().to(torch.bfloat16)
    codes = model.encode(images)
    assert torch.equal(codes.flat, model.encode(images.bfloat16()).flat)
    assert model.decode(codes).shape == images.shape


def test_codes_that_do_not_fill_the_grid_are_refused(tiny_model, random_images):
    model = tiny_model()
    codes = model.encode(random_images(1, 16, 24))
    with pytest.raises(ValueError, match=r"6 codes do not fill a grid of 2×2"):
        model.decode(codes)


@pytest.mark.parametrize("kind", ["conv", "patch"])
def test_both_kinds_of_stem_and_head_keep_the_shape(tiny_model, random_images, kind):
    model = tiny_model(pixel_stem=kind, decoder_head=kind)
    assert model(random_images()).shape == (3, 3, 32, 32)


def test_a_saved_model_gives_the_same_codes_and_images(tiny_model, random_images, tmp_path):
    # Another normalisation than the default: its buffers are made anew on loading.
    model = tiny_model(
        teacher_mean=[0.48, 0.46, 0.41], teacher_std=[0.27, 0.26, 0.28], use_enhance_decoder=True
    )
    images = random_images()
    model.save_pretrained(tmp_path)
    loaded = SemHiTokModel.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded.teacher_scale, model.teacher_scale)
    assert torch.equal(loaded.teacher_shift, model.teacher_shift)
    assert loaded.config.teacher_mean == model.config.teacher_mean
    assert loaded.config.use_enhance_decoder
    assert torch.equal(loaded.encode(images).flat, model.encode(images).flat)
    assert torch.equal(loaded(images), model(images))


def test_the_teachers_normalisation_is_applied(tiny_model, random_images):
    images = random_images()
    model = tiny_model(teacher_mean=[0.4, 0.5, 0.6], teacher_std=[0.2, 0.3, 0.4])
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in ([0.4, 0.5, 0.6], [0.2, 0.3, 0.4]))
    expected = model.teacher(pixel_values=((images + 1) / 2 - mean) / std).last_hidden_state
    assert torch.allclose(model.teacher_features(images), expected, atol=1e-5)


def test_auto_classes_load_the_model(tiny_model, tmp_path):
    tiny_model().save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), SemHiTokConfig)
    assert isinstance(AutoModel.from_pretrained(tmp_path), SemHiTokModel)


def test_only_safetensors_and_text_are_written(tiny_model, tmp_path):
    tiny_model().save_pretrained(tmp_path)
    names = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert "auto_map" not in json.loads((tmp_path / "config.json").read_text())


def test_gradients_never_reach_the_teacher_or_the_codebooks(tiny_model):
    model = tiny_model()
    frozen = [*model.teacher.parameters()]
    frozen += [model.semantic_codebook.codes, model.pixel_sub_codebooks.codes]
    assert not any(parameter.requires_grad for parameter in frozen)


def test_an_image_size_that_the_patch_does_not_divide_is_no_config():
    with pytest.raises(Exception, match=r"image_size 30 .* patch_size 8"):
        SemHiTokConfig(image_size=30, patch_size=8)


def test_the_frozen_teacher_stays_in_eval_mode(tiny_model):
    model = tiny_model().train()
    assert model.training and model.decoder.training
    assert not any(module.training for module in model.teacher.modules())
