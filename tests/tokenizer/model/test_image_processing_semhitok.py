"""The same pixels, and so the same codes, whoever asks for them."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from data_pipelines.images import ImageError, open_image, resize_and_crop, to_tensor
from tokenizer.model.image_processing_semhitok import SemHiTokImageProcessor, image_processor

SIZE = 32


def deep_grey():
    levels = np.linspace(0, 65535, 50 * 40).reshape(50, 40).astype(np.uint16)
    return Image.fromarray(levels)


def clear():
    image = Image.effect_noise((60, 45), 80).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def palette():
    return Image.effect_noise((37, 64), 90).convert("RGB").quantize(16)


def turned():
    image = Image.effect_noise((64, 43), 70).convert("RGB")
    exif = image.getexif()
    exif[0x0112] = 6
    image.info["exif"] = exif.tobytes()
    return image


PICTURES = {
    "photo of an odd shape": (lambda: Image.effect_noise((640, 427), 60).convert("RGB"), "PNG"),
    "16 bits of grey": (deep_grey, "PNG"),
    "alpha": (clear, "PNG"),
    "palette": (palette, "PNG"),
    "grey": (lambda: Image.effect_noise((33, 57), 60), "PNG"),
    "turned": (turned, "JPEG"),
    "cmyk": (lambda: Image.effect_noise((50, 50), 60).convert("CMYK"), "JPEG"),
    "one pixel": (lambda: Image.new("RGB", (1, 1), (9, 99, 199)), "PNG"),
    "a line": (lambda: Image.effect_noise((500, 1), 60).convert("RGB"), "PNG"),
    "its own size": (lambda: Image.effect_noise((SIZE, SIZE), 60).convert("RGB"), "PNG"),
}


@pytest.fixture(params=PICTURES)
def path(request, tmp_path):
    make, kind = PICTURES[request.param]
    image = make()
    path = tmp_path / f"picture.{kind.lower()}"
    options = {"exif": image.info["exif"]} if "exif" in image.info else {}
    image.save(path, kind, **options)
    return path


@pytest.fixture
def processor(tiny_model):
    return image_processor(tiny_model().config)


def pixels_of(processor, image):
    return processor(images=image, return_tensors="pt")["pixel_values"][0]


def test_every_way_to_a_picture_gives_the_pixels_of_training(processor, path, tiny_model):
    expected = to_tensor(resize_and_crop(open_image(path), SIZE))
    data = path.read_bytes()
    coded = base64.b64encode(data).decode()
    with Image.open(path) as picture:
        ways = {
            "path": str(path),
            "Path": path,
            "picture": picture,
            "a list": [picture],
            "base64": coded,
            "data URL": f"data:image/{path.suffix[1:]};base64,{coded}",
        }
        found = {name: pixels_of(processor, image) for name, image in ways.items()}
    for name, pixels in found.items():
        assert torch.equal(pixels, expected), name
    model = tiny_model()
    codes = model.encode(torch.stack([expected, *found.values()])).flat
    assert (codes == codes[0]).all()


def test_arrays_of_bytes_go_the_same_way(processor, path):
    image = open_image(path)
    expected = to_tensor(resize_and_crop(image, SIZE))
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    assert torch.equal(pixels_of(processor, tensor), expected)
    if min(image.size) > 4:  # else which axis holds the channels is a guess
        assert torch.equal(pixels_of(processor, np.array(image)), expected)


def test_the_given_picture_stays_as_it_is(processor):
    picture = turned()
    before = picture.tobytes()
    pixels_of(processor, picture)
    assert picture.size == (64, 43) and picture.tobytes() == before


def test_other_steps_are_left_to_transformers(processor):
    image = Image.effect_noise((48, 40), 60).convert("RGB")
    own = pixels_of(processor, image)
    for options in ({"do_normalize": False}, {"image_mean": [0.4] * 3}, {"do_center_crop": False}):
        other = processor(images=image, return_tensors="pt", **options)["pixel_values"][0]
        assert other.shape != own.shape or not torch.allclose(other, own, atol=1e-3)
    floats = np.array(image, dtype=np.float32)
    assert torch.allclose(pixels_of(processor, floats), own, atol=0.05)


def test_a_saved_processor_is_the_same(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = SemHiTokImageProcessor.from_pretrained(tmp_path)
    image = Image.open(io.BytesIO(_png(clear())))
    assert torch.equal(pixels_of(loaded, image), pixels_of(processor, image))


def _png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.int64, np.uint32, torch.int64])
def test_levels_are_the_picture_whatever_type_of_integers_holds_them(kind):
    levels = np.asarray(Image.effect_noise((50, 40), 60).convert("RGB"))
    process = SemHiTokImageProcessor(
        size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}
    )
    is_torch = isinstance(kind, torch.dtype)
    given = torch.from_numpy(levels.copy()).to(kind) if is_torch else levels.astype(kind)
    expected, found = (
        process(images=each, return_tensors="pt")["pixel_values"] for each in (levels, given)
    )
    assert torch.equal(found, expected)


def test_sixteen_bit_colours_are_refused_in_a_sentence():
    with pytest.raises(ImageError, match="an array of 16-bit colours is not accepted; give"):
        SemHiTokImageProcessor()(images=np.full((40, 50, 3), 1000, np.uint16))
