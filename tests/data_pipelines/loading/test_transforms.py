import io
import random

import numpy as np
import pytest
import torch
from PIL import Image

from data_pipelines.images import open_image, resize_and_crop, scale_pixels
from data_pipelines.loading.transforms import (
    PIXEL_BRANCH,
    ImageTransform,
    Normalisation,
    centre_crop_adm,
    random_crop,
    speaks_of_sides,
    two_views,
)

IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    draw = np.random.default_rng(seed)
    return Image.fromarray(draw.integers(0, 256, (height, width, 3), np.uint8))


def all_levels() -> torch.Tensor:
    """(1, 16, 16, 3): every level of every channel."""
    return torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).repeat(1, 1, 1, 3)


def test_adm_halves_by_averages_and_ends_bicubically():
    image = noise(70, 68)
    halved = image.resize((35, 34), Image.Resampling.BOX)
    expected = halved.resize((round(35 * 32 / 34), 32), Image.Resampling.BICUBIC)
    expected = expected.crop((0, 0, 32, 32))
    assert centre_crop_adm(image, 32).tobytes() == expected.tobytes()
    assert centre_crop_adm(noise(32, 32), 32).tobytes() == noise(32, 32).tobytes()
    assert centre_crop_adm(image, 16).tobytes() != resize_and_crop(image, 16).tobytes()


def test_a_random_crop_is_decided_by_its_draw_and_comes_from_all_over_the_image():
    x = np.linspace(0, 255, 120).round().astype(np.uint8)
    ramp = Image.fromarray(np.repeat(np.tile(x, (60, 1))[..., None], 3, axis=-1))
    crops = [np.asarray(random_crop(ramp, 16, random.Random(seed))) for seed in range(40)]
    again = np.asarray(random_crop(ramp, 16, random.Random(7)))
    assert np.array_equal(again, crops[7])
    middles = [crop[:, 7:9].mean() for crop in crops]
    assert min(middles) < 80 and max(middles) > 175
    whole = random_crop(noise(16, 16), 16, random.Random(0), max_zoom=1.0)
    assert whole.tobytes() == noise(16, 16).tobytes()


@pytest.mark.parametrize(
    ("captions", "expected"),
    [
        ([], False), (["a cat"], False), (["a cat", "the Left one"], True),
        (["a RIGHT turn"], True), (["a bright day"], True),  # rather too careful than wrong
    ],
)  # fmt: skip
def test_what_speaks_of_sides_is_never_mirrored(captions, expected):
    assert speaks_of_sides(captions) == expected
    image, transform = noise(16, 16), ImageTransform(16, flip=True)
    mirrored = sum(
        not np.array_equal(transform(image, captions, random.Random(seed)), np.asarray(image))
        for seed in range(40)
    )
    assert mirrored == 0 if expected else 10 < mirrored < 30


@pytest.mark.parametrize("normalisation", [PIXEL_BRANCH, IMAGENET])
def test_a_normalisation_is_inverted_exactly(normalisation):
    pixels = all_levels()
    images = normalisation.apply(pixels)
    assert images.shape == (1, 3, 16, 16) and images.is_contiguous()
    assert torch.equal(normalisation.invert(images), pixels)
    assert torch.equal(pixels, all_levels())  # which `apply` left alone


def test_both_views_are_of_the_same_pixels():
    pixels = torch.from_numpy(np.asarray(noise(20, 10)).copy())[None]
    theirs, ours = two_views(pixels, IMAGENET)
    assert torch.allclose(ours, scale_pixels(pixels), atol=1e-6)
    plain = pixels.movedim(-1, -3) / 255
    mean, std = (torch.tensor(x)[:, None, None] for x in (IMAGENET.mean, IMAGENET.std))
    assert torch.allclose(theirs, (plain - mean) / std, atol=1e-5)
    same = two_views(pixels, PIXEL_BRANCH)
    assert same[0] is same[1]


def test_a_large_jpeg_is_decoded_smaller_where_that_is_asked_for():
    smooth = noise(40, 30).resize((400, 300), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    smooth.save(buffer, "JPEG", quality=95)
    whole, small = open_image(buffer.getvalue()), open_image(buffer.getvalue(), at_least=64)
    assert whole.size == (400, 300)
    assert small.size == (100, 75)
    pair = [np.asarray(resize_and_crop(image, 64)).astype(float) for image in (whole, small)]
    assert np.abs(pair[0] - pair[1]).mean() < 3.0
