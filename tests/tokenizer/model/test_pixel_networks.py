import pytest
import torch

from runtime.errors import UserError
from tokenizer.model.modeling_semhitok import SemHiTokModel
from tokenizer.training.starts import grow_decoder

CONV = {
    "pixel_encoder_kind": "conv",
    "pixel_hidden_size": 128,
    "decoder_kind": "conv",
    "decoder_hidden_size": 128,
    "enhance_decoder_kind": "conv",
    "enhance_decoder_hidden_size": 128,
    "enhance_decoder_layers": 2,
}


@pytest.mark.parametrize("use_enhance_decoder", [False, True])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (16, 40)])
def test_convolutional_networks_encode_and_decode_any_shape(
    tiny_model, random_images, height, width, use_enhance_decoder
):
    model = tiny_model(**CONV, use_enhance_decoder=use_enhance_decoder)
    images = random_images(2, height, width)
    codes = model.encode(images)
    assert codes.pixel.shape == (2, height // 8 * (width // 8))
    decoded = model.decode(codes, grid=(height // 8, width // 8))
    assert decoded.shape == images.shape
    assert torch.equal(decoded, model(images))


def test_every_weight_of_the_convolutional_networks_learns(tiny_model, random_images):
    model, images = tiny_model(**CONV), random_images(1)
    vectors = model.pixel_vectors(images)
    decoded = model.decoder(torch.cat([vectors, vectors], -1), (4, 4))
    decoded.square().mean().backward()
    parts = [*model.pixel_encoder.parameters(), *model.decoder.parameters()]
    assert all(parameter.grad is not None for parameter in parts)
    idle = [p for p in parts if p.ndim > 1 and not p.grad.any()]
    assert idle == []


def test_a_convolutional_vector_lies_where_its_patch_does(tiny_model):
    # Position 6 of the 4×4 grid, row-major, is row 1, column 2.
    encoder = tiny_model(**CONV, seed=3).pixel_encoder
    blank = torch.zeros(1, 3, 32, 32)
    dotted = blank.clone()
    dotted[:, :, 8:16, 16:24] = 1
    moved = (encoder(dotted, (4, 4)) - encoder(blank, (4, 4))).norm(dim=-1)
    assert moved.argmax() == 6


@pytest.mark.parametrize("kinds", [("conv", "vit"), ("vit", "conv")])
def test_families_mix_and_are_saved(tiny_model, random_images, tmp_path, kinds):
    encoder, decoder = kinds
    fields = {"pixel_encoder_kind": encoder, "decoder_kind": decoder}
    model = tiny_model(**CONV | fields)
    images = random_images(1)
    model.save_pretrained(tmp_path)
    loaded = SemHiTokModel.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(images), model(images))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pixel_hidden_size": 96}, "pixel_hidden_size .* multiple of 128, not 96"),
        ({"enhance_decoder_hidden_size": 32}, "enhance_decoder_hidden_size .* multiple of 128"),
    ],
    ids=str,
)
def test_widths_that_convolutions_cannot_have(tiny_model, fields, message):
    with pytest.raises(ValueError, match=message):
        tiny_model(**CONV | fields)


def test_a_convolutional_encoder_without_blocks_is_refused_and_a_decoder_without_works(tiny_model):
    with pytest.raises(ValueError, match=r"pixel_encoder_layers .* at least 1"):
        tiny_model(**CONV | {"pixel_encoder_layers": 0})
    model = tiny_model(**CONV | {"decoder_layers": 0})
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 3, 32, 32)


def test_a_convolutional_decoder_does_not_start_from_another(tiny_model):
    model = tiny_model(**CONV)
    with pytest.raises(UserError, match="'vit'"):
        grow_decoder(model.decoder, model.enhance_decoder)


@pytest.mark.parametrize("part", ["semantic", "pixel"])
def test_a_code_wider_than_its_encoder_is_no_config(tiny_model, part):
    with pytest.raises(Exception, match=rf"{part}_code_dim 17 is larger .* {part}_hidden_size 16"):
        tiny_model(**{f"{part}_code_dim": 17})
