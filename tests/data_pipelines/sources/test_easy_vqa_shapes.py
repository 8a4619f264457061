import itertools
import json
from collections import defaultdict

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from data_pipelines.sources.easy_vqa import data_folder, stated_truth
from data_pipelines.sources.easy_vqa_shapes import PALETTE, SHAPES, judge_shape

TINT = (238, 246, 250)


def draw(colour: str, shape: str, size: int = 64, tint: tuple[int, int, int] = TINT) -> np.ndarray:
    image = Image.new("RGB", (size, size), tint)
    pen = ImageDraw.Draw(image)
    low, high = size // 4, 3 * size // 4 - 1
    if shape == "triangle":
        pen.polygon([(low, high), (high, high), (size // 2, low)], fill=PALETTE[colour])
    elif shape == "circle":
        pen.ellipse([low, low, high, high], fill=PALETTE[colour])
    else:
        pen.rectangle([low, low, high, high - size // 8], fill=PALETTE[colour])
    return np.asarray(image)


def test_the_rule_agrees_with_the_questions_about_all_real_images():
    """5,000 images; the questions tell the colour of 4,634 and the shape of 4,791."""
    told = {"colour": 0, "shape": 0}
    right = {"colour": 0, "shape": 0}
    for split in ("train", "test"):
        asked = defaultdict(list)
        questions = (data_folder() / split / "questions.json").read_text(encoding="utf-8")
        for question, answer, number in json.loads(questions):
            asked[number].append((question, answer))
        for number, pairs in asked.items():
            path = data_folder() / split / "images" / f"{number}.png"
            seen = judge_shape(np.asarray(Image.open(path)))
            for kind, possible, word in zip(
                ("colour", "shape"), stated_truth(pairs), seen or ("", ""), strict=True
            ):
                if len(possible) == 1:
                    told[kind] += 1
                    right[kind] += word in possible
    assert told == {"colour": 4634, "shape": 4791}
    assert right["colour"] == 4634
    assert right["shape"] >= 0.9989 * told["shape"]  # measured: all


@pytest.mark.parametrize(("colour", "shape"), list(itertools.product(PALETTE, SHAPES)))
def test_soft_edges_and_noise_do_not_change_the_verdict(colour, shape):
    clean = draw(colour, shape).astype(float)
    blurred = gaussian_filter(clean, (1.0, 1.0, 0.0))
    noisy = blurred + np.random.default_rng(0).normal(0, 8, clean.shape)
    for pixels in (clean, blurred, noisy):
        image = pixels.round().clip(0, 255).astype(np.uint8)
        assert judge_shape(image) == (colour, shape)


@pytest.mark.parametrize("size", [48, 128, 256])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_rule_does_not_depend_on_the_resolution(shape, size):
    assert judge_shape(draw("teal", shape, size)) == ("teal", shape)


def test_specks_beside_the_shape_do_not_matter():
    image = draw("red", "circle").copy()
    image[2:4, 2:4] = 0
    assert judge_shape(image) == ("red", "circle")


def test_nothing_clear_gives_no_verdict():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    blank = np.full((64, 64, 3), TINT, dtype=np.uint8)
    dark = np.zeros((64, 64, 3), dtype=np.uint8)
    speck = blank.copy()
    speck[30:32, 30:32] = 0
    ring = draw("blue", "circle").copy()
    ring[22:42, 22:42] = TINT
    for image in (blank, dark, noise, speck, ring):
        assert judge_shape(image) is None
