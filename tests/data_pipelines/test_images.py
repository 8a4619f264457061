import io
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from data_pipelines import images as module
from data_pipelines.images import (
    MAX_ZOOM,
    ImageError,
    centre_crop_adm,
    numbered_crop,
    open_image,
    resize_and_crop,
    scale_pixels,
    to_pil,
    to_tensor,
    upright_rgb,
)


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(height: int = 12, width: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png_that_declares(width: int, height: int) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [7_000, 20_000, 50_000])
def test_a_bomb_is_refused_before_its_pixels_are_made(side):
    with pytest.raises(ImageError, match="limit"):
        open_image(png_that_declares(side, side))


def test_an_image_up_to_the_limits_is_read_and_the_error_names_the_file(tmp_path, monkeypatch):
    path = tmp_path / "large.png"
    path.write_bytes(encode(Image.fromarray(noise())))
    monkeypatch.setattr(module, "MAX_PIXELS", 12 * 16)
    assert open_image(path).size == (16, 12)
    monkeypatch.setattr(module, "MAX_PIXELS", 12 * 16 - 1)
    with pytest.raises(ImageError, match=r"large\.png declares 16 x 12 pixels"):
        open_image(path)
    monkeypatch.setattr(module, "MAX_FILE_SIZE", 100)
    with pytest.raises(ImageError, match=r"large\.png has .* bytes; the limit is 100"):
        open_image(path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_a_file_cut_anywhere_is_refused_or_whole(kind):
    data = encode(Image.fromarray(noise()), kind)
    whole = np.asarray(open_image(data))
    num_refused = 0
    for length in range(len(data)):
        try:
            image = open_image(data[:length])
        except ImageError:
            num_refused += 1
        else:
            np.testing.assert_array_equal(np.asarray(image), whole)
    assert num_refused > 0.95 * len(data)


def test_a_file_cut_short_is_refused_where_another_library_lets_pillow_fill_it(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as lmms-eval does
    data = encode(Image.fromarray(noise()))
    with ThreadPoolExecutor(4) as pool:
        for answer in [pool.submit(open_image, data[:200]) for _ in range(40)]:
            with pytest.raises(ImageError, match="damaged"):
                answer.result()
    assert ImageFile.LOAD_TRUNCATED_IMAGES  # the choice of the process is its own again


@pytest.mark.parametrize("data", [b"", b"no image", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_what_is_no_image_is_refused(data):
    with pytest.raises(ImageError, match=r"x\.png"):
        open_image(data, name="x.png")


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(ImageError, match=r"nothing\.png is not there"):
        open_image(tmp_path / "nothing.png")
    with pytest.raises(ImageError, match="not a file"):
        open_image(tmp_path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    # What each tag asks for, as (transpose, rows, columns) of the stored array.
    turn = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
        8: lambda a: np.rot90(a, 1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(noise()), "PNG", exif=exif)
    np.testing.assert_array_equal(np.asarray(open_image(data)), turn(noise()))


def test_unreadable_exif_counts_as_none():
    data = encode(Image.fromarray(noise()), "PNG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    np.testing.assert_array_equal(np.asarray(open_image(data)), noise())


def test_alpha_is_laid_over_white():
    clear_red = Image.new("RGBA", (1, 1), (255, 0, 0, 0))
    half_black = Image.new("LA", (1, 1), (0, 128))
    assert open_image(encode(clear_red)).getpixel((0, 0)) == (255, 255, 255)
    assert open_image(encode(half_black)).getpixel((0, 0)) == (127, 127, 127)


def test_palette_and_its_transparent_entry_are_looked_up():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    plain = open_image(encode(image))
    assert [plain.getpixel((x, 0)) for x in (0, 1)] == [(10, 20, 30), (200, 100, 50)]
    partly_clear = open_image(encode(image, transparency=0))
    assert [partly_clear.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (200, 100, 50)]


def test_sixteen_bit_grey_keeps_its_range():
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    image = open_image(encode(Image.fromarray(values)))
    assert np.asarray(image)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_cmyk_becomes_rgb():
    image = open_image(encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100))
    assert image.mode == "RGB"
    np.testing.assert_allclose(image.getpixel((4, 4)), (255, 0, 0), atol=3)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_gives_its_first_frame(kind):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert open_image(data).getpixel((0, 0)) == (255, 0, 0)


def test_all_byte_values_survive_the_trip_through_a_tensor():
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = Image.fromarray(np.stack([pixels, pixels.T, 255 - pixels], axis=-1))
    tensor = to_tensor(image)
    assert tensor.shape == (3, 16, 16)
    assert tensor.dtype == torch.float32
    assert (tensor.min(), tensor.max()) == (-1.0, 1.0)
    np.testing.assert_array_equal(np.asarray(to_pil(tensor)), np.asarray(image))


def test_values_outside_the_range_are_clamped_and_shapes_are_checked():
    assert to_pil(torch.full((3, 1, 1), 7.0)).getpixel((0, 0)) == (255, 255, 255)
    with pytest.raises(ValueError, match=r"\(1, 2, 2\)"):
        to_pil(torch.zeros(1, 2, 2))


def test_resizing_to_the_same_size_changes_nothing():
    image = Image.fromarray(noise(16, 16))
    np.testing.assert_array_equal(np.asarray(resize_and_crop(image, 16)), noise(16, 16))


@pytest.mark.parametrize(("width", "height"), [(64, 16), (16, 64), (17, 16), (3, 1000), (1, 1)])
def test_any_picture_becomes_the_square(width, height):
    image = Image.fromarray(noise(height, width))
    assert resize_and_crop(image, 16).size == (16, 16)


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [(640, 480, 256), (480, 640, 256), (1023, 777, 384), (500, 375, 32), (60, 45, 64), (97, 31, 30),
     (300, 299, 256), (64, 1000, 64)],
)  # fmt: skip
def test_it_is_the_whole_picture_scaled_and_then_cut(width, height, size):
    image = Image.fromarray(noise(height, width))
    scaled = [max(size, round(side * size / min(image.size))) for side in image.size]
    whole = image.resize(scaled, Image.Resampling.BICUBIC)
    left, top = ((side - size) // 2 for side in scaled)
    expected = np.asarray(whole.crop((left, top, left + size, top + size))).astype(int)
    distance = np.abs(np.asarray(resize_and_crop(image, size)) - expected)
    assert distance.max() <= 1
    assert (distance > 0).mean() < 3e-3  # of noise; far less of photographs


def test_the_crop_is_central():
    pixels = np.zeros((8, 24, 3), dtype=np.uint8)
    pixels[:, 8:16] = 255  # the central square
    assert np.asarray(resize_and_crop(Image.fromarray(pixels), 8)).min() == 255


def test_shrinking_does_not_alias():
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    shrunk = np.asarray(resize_and_crop(Image.fromarray(stripes), 8)).astype(int)
    assert np.abs(shrunk - 127).max() <= 12  # grey all over, up to the picture's edge


def test_a_batch_of_pixels_is_scaled_as_its_images_are():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 7, 3), dtype=np.uint8)
    batch = scale_pixels(torch.from_numpy(pixels))
    assert batch.shape == (2, 3, 3, 5, 7) and batch.is_contiguous()
    for i, j in np.ndindex(2, 3):
        assert torch.equal(batch[i, j], to_tensor(Image.fromarray(pixels[i, j])))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L"])
def test_alpha_is_laid_over_white_alike_in_every_strip(mode, monkeypatch):
    monkeypatch.setattr(module, "PIXELS_OF_STRIP", 1000)
    height = 2 * 200 + 3
    coloured = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, 5, 4), np.uint8))
    image, options = coloured, {}
    if mode in ("LA", "RGBA"):
        image = coloured.convert(mode)
    else:  # one colour, or entry of the palette, is transparent
        image = coloured.convert("RGB").convert(mode)
        options = {"transparency": image.getpixel((0, 0))}
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    whole = Image.open(io.BytesIO(buffer.getvalue())).convert("RGBA")
    white = Image.new("RGBA", whole.size, "white")
    expected = Image.alpha_composite(white, whole).convert("RGB")
    assert open_image(buffer.getvalue()).tobytes() == expected.tobytes()
    assert whole.getextrema()[3][0] < 255


def test_adm_halves_by_averages_and_ends_bicubically():
    image = Image.fromarray(noise(68, 70))
    halved = image.resize((35, 34), Image.Resampling.BOX)
    expected = halved.resize((round(35 * 32 / 34), 32), Image.Resampling.BICUBIC)
    expected = expected.crop((0, 0, 32, 32))
    assert centre_crop_adm(image, 32).tobytes() == expected.tobytes()
    square = Image.fromarray(noise(32, 32))
    assert centre_crop_adm(square, 32).tobytes() == square.tobytes()
    assert centre_crop_adm(image, 16).tobytes() != resize_and_crop(image, 16).tobytes()


def ramp(width, height):
    """An image whose red and green tell the place, 0 … 255 over either side."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 0 * x], axis=-1).round().astype(np.uint8))


def test_the_first_crop_is_the_centre():
    image = ramp(90, 60)
    assert numbered_crop(image, 32, 0, "x").tobytes() == resize_and_crop(image, 32).tobytes()


def test_name_and_number_alone_decide_a_crop():
    image = ramp(90, 60)
    crops = {
        (name, number): numbered_crop(image, 32, number, name).tobytes()
        for name in ("x", "y")
        for number in range(4)
    }
    assert len(set(crops.values())) == 7  # the centre is the same under both names
    assert all(numbered_crop(image, 32, n, name).tobytes() == c for (name, n), c in crops.items())


@pytest.mark.parametrize(("width", "height"), [(120, 80), (80, 120), (64, 64)])
def test_crops_are_squares_near_the_shorter_side_from_all_over_the_image(width, height):
    centres, spans = [], []
    for number in range(1, 60):
        crop = np.asarray(numbered_crop(ramp(width, height), 32, number, "x")).astype(float)
        assert crop.shape == (32, 32, 3)
        left, right = crop[:, 0, 0].mean(), crop[:, -1, 0].mean()
        top, bottom = crop[0, :, 1].mean(), crop[-1, :, 1].mean()
        assert left < right and top < bottom  # never mirrored
        spans.append(((right - left) / 255 * width, (bottom - top) / 255 * height))
        centres.append(((left + right) / 2, (top + bottom) / 2))
    side = min(width, height)
    # The outermost pixels' middles lie half a pixel inside: 31/32 of the span.
    assert np.min(spans) > 31 / 32 * side / MAX_ZOOM - 2.5
    assert np.max(spans) < side + 2.5
    reach = np.ptp(np.array(centres), axis=0) / 255 * np.array([width, height])
    room = np.array([width, height]) - side
    assert np.all(reach > 0.7 * room)
    assert np.all(reach < room + side * (1 - 1 / MAX_ZOOM) + 2.5)


def chunk(kind: bytes, data: bytes, checksum: int | None = None) -> bytes:
    checksum = zlib.crc32(kind + data) if checksum is None else checksum
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


@pytest.mark.parametrize(
    "beside",
    [
        chunk(b"iCCP", b"big\0\0" + zlib.compress(bytes(1_500_000))),
        chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b"x" * 1_500_000)),
        chunk(b"iTXt", b"workflow\0\0\0\0\0" + b"x" * 1_500_000),
        chunk(b"iCCP", b"bad\0\0" + b"no zlib here"),
        chunk(b"tEXt", b"a\0b", checksum=0),
        chunk(b"eXIf", b"no tiff at all"),
        b"".join(chunk(b"tEXt", b"k%d\0v" % number) for number in range(2000)),
    ],
    ids=["profile", "packed text", "text", "damaged profile", "checksum", "exif", "many"],
)
def test_what_stands_beside_the_pixels_of_a_png_costs_no_picture(beside):
    plain = encode(Image.fromarray(noise()))
    at = plain.index(b"IDAT") - 4
    assert open_image(plain[:at] + beside + plain[at:]).tobytes() == open_image(plain).tobytes()
    cut = plain[:at] + beside + plain[at:-40]
    with pytest.raises(ImageError, match="damaged"):
        open_image(cut)


def test_a_profile_of_a_jpeg_costs_no_picture():
    image = Image.fromarray(noise())
    plain, large = encode(image, "JPEG"), encode(image, "JPEG", icc_profile=bytes(3_000_000))
    assert open_image(large).tobytes() == open_image(plain).tobytes()


def test_a_decoded_picture_is_brought_to_the_same_pixels_and_left_as_it_is():
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = Image.fromarray(np.linspace(0, 65535, 12 * 16).astype(np.uint16).reshape(12, 16))
    clear = Image.fromarray(noise()).convert("RGBA")
    clear.putalpha(0)
    for data in (
        encode(Image.fromarray(noise()), "JPEG", exif=exif), encode(wide), encode(clear),
        encode(Image.fromarray(noise()).convert("P"), transparency=3),
    ):  # fmt: skip
        given = Image.open(io.BytesIO(data))
        size, mode = given.size, given.mode
        assert upright_rgb(given).tobytes() == open_image(data).tobytes()
        assert (given.size, given.mode) == (size, mode)


SHAPES = """
import io, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (2 * 2**30, 2 * 2**30))
from PIL import Image
from data_pipelines.images import *
from data_pipelines.images import pixel_digest
Image.MAX_IMAGE_PIXELS = None
width, height, mode = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
buffer = io.BytesIO()
Image.new(mode, (width, height)).save(buffer, "PNG")
image = open_image(buffer.getvalue())
pixel_digest(image)
for size in (16, 512):
    for cut in (resize_and_crop, centre_crop_adm, lambda i, s: numbered_crop(i, s, 3, "x")):
        assert cut(image, size).size == (size, size)
image.thumbnail((160, 160))
"""


@pytest.mark.parametrize(
    ("width", "height", "mode"),
    [
        (1, 1, "RGB"), (1, 500, "LA"), (500, 1, "I;16"),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in (
            (2_000_000, 12, "RGB"), (12, 2_000_000, "RGBA"), (25_000_000, 1, "P"),
            (1, 25_000_000, "I;16"), (5000, 5000, "RGBA"),
        )),
    ],
)  # fmt: skip
def test_extreme_shapes_are_cut_within_two_gigabytes(width, height, mode):
    arguments = [str(width), str(height), mode]
    subprocess.run([sys.executable, "-c", SHAPES, *arguments], check=True, timeout=250)
