import numpy as np
import pytest
from PIL import Image

from eval.measures.image_source import CROPS, EvaluationImages, images_at_once
from runtime.errors import UserError


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(5):
        pixels = rng.integers(0, 256, (60 + number, 90, 3), dtype=np.uint8)
        (tmp_path / "sub").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "sub" / f"{number}.png")
    return tmp_path


def test_large_images_go_in_smaller_batches():
    assert images_at_once(64, 64) == images_at_once(64, 256) == 64
    assert images_at_once(1024, 64) == 1024 and images_at_once(1024, 512) == 16
    assert images_at_once(64, 100_000) == 1


def test_adms_crop_halves_before_it_scales():
    image = Image.effect_noise((500, 333), 80).convert("RGB")
    by_hand = image.resize((250, 166), Image.Resampling.BOX)  # 333 ≥ 2 · 64, and 166 too
    by_hand = by_hand.resize((125, 83), Image.Resampling.BOX)
    by_hand = by_hand.resize((round(125 * 64 / 83), 64), Image.Resampling.BICUBIC)
    left = (by_hand.width - 64) // 2
    by_hand = by_hand.crop((left, 0, left + 64, 64))
    assert np.array_equal(CROPS["adm"].cut(image, 64), by_hand)
    assert not np.array_equal(by_hand, CROPS["shorter-side"].cut(image, 64))


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("shape", [(64, 64), (40, 70), (301, 64), (64, 65), (129, 257)])
def test_every_crop_gives_the_square_and_leaves_an_exact_fit_alone(crop, shape):
    image = Image.effect_noise(shape, 80).convert("RGB")
    cut = CROPS[crop].cut(image, 64)
    assert cut.size == (64, 64)
    if shape == (64, 64):
        assert np.array_equal(cut, image)


def test_a_folder_is_read_in_order_by_adms_crop(folder):
    images = EvaluationImages(folder)
    assert len(images) == 5 and images.crop == "adm" and not images.is_prepared
    assert [images.record_id(i) for i in range(5)] == [f"sub/{i}.png" for i in range(5)]
    assert images.image_tensor(4, 32).shape == (3, 32, 32)


def test_fewer_images_are_evenly_spaced_and_another_set(folder):
    images = EvaluationImages(folder, max_images=2)
    assert [images.record_id(i) for i in range(len(images))] == ["sub/0.png", "sub/2.png"]
    assert images.fingerprint != EvaluationImages(folder).fingerprint


def test_other_images_are_another_set(folder):
    before = EvaluationImages(folder).fingerprint
    (folder / "sub" / "0.png").write_bytes((folder / "sub" / "1.png").read_bytes())
    assert EvaluationImages(folder).fingerprint != before


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no image"):
        EvaluationImages(tmp_path / "empty")


def test_an_image_that_vanished_is_named(folder):
    images = EvaluationImages(folder)
    (folder / "sub" / "3.png").unlink()
    with pytest.raises(UserError, match=r"3\.png"):
        images.image_tensor(3, 32)
