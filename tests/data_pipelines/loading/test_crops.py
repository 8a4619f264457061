import numpy as np
import pytest
from PIL import Image

from data_pipelines.images import resize_and_crop
from data_pipelines.loading.crops import MAX_ZOOM, numbered_crop


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
