import pytest
import torch

from data_pipelines.loading.augment import augment

CAPTIONS = ["a red circle"] * 6


def images(batch_size: int = 6) -> torch.Tensor:
    return torch.rand(batch_size, 3, 12, 16, generator=torch.Generator().manual_seed(0))


def test_nothing_asked_for_gives_the_same_tensor():
    batch = images()
    assert augment(batch, CAPTIONS, 0, False, seed=(0,)) is batch


def test_a_batch_depends_on_its_seed_alone():
    first = augment(images(), CAPTIONS, 3, True, seed=(7, 40, 0))
    augment(images(), CAPTIONS, 3, True, seed=(7, 41, 0))
    torch.rand(5)
    assert torch.equal(augment(images(), CAPTIONS, 3, True, seed=(7, 40, 0)), first)
    assert not torch.equal(augment(images(), CAPTIONS, 3, True, seed=(7, 41, 0)), first)


def test_every_shift_is_a_window_of_the_image_continued_by_its_border():
    batch = images(40)
    for image, shifted in zip(batch, augment(batch, ["a"] * 40, 2, False, seed=(1,)), strict=True):
        padded = torch.nn.functional.pad(image[None], (2, 2, 2, 2), mode="replicate")[0]
        windows = [padded[:, y : y + 12, x : x + 16] for y in range(5) for x in range(5)]
        assert any(torch.equal(shifted, window) for window in windows)


def test_flip_mirrors_about_half_and_never_where_a_caption_names_a_side():
    batch = images(200)
    captions = ["a circle", "a circle on the LEFT"] * 100
    flipped = augment(batch, captions, 0, True, seed=(2,))
    mirrored = [torch.equal(a.flip(-1), b) for a, b in zip(batch, flipped, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(batch, flipped, strict=True)]
    assert all(m != k for m, k in zip(mirrored, kept, strict=True))
    assert 30 <= sum(mirrored[::2]) <= 70
    assert not any(mirrored[1::2])


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("", False), ("a cat", False), ("the Left one", True), ("a RIGHT turn", True),
        ("a bright day", True),  # rather too careful than wrong
    ],
)  # fmt: skip
def test_a_caption_that_speaks_of_sides_keeps_its_image_as_it_is(caption, expected):
    batch = images(40)
    flipped = augment(batch, [caption] * 40, 0, True, seed=(3,))
    mirrored = sum(not torch.equal(a, b) for a, b in zip(batch, flipped, strict=True))
    assert mirrored == 0 if expected else 10 < mirrored < 30
