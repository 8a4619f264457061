"""What `semhitok generate --image` keeps, and what it refuses."""

import json

import pytest
import torch
from PIL import Image

from mllm.drawing.drawer import Drawer
from mllm.drawing.requests import ImageRequest
from mllm.model.sampler import Sampler
from mllm.serving.edit import keep
from mllm.serving.generate import generate
from mllm.serving.settings import EditSettings, GenerateSettings
from runtime.errors import UserError
from tests.mllm.tiny import NUM_PIXEL, make_model, picture


@pytest.fixture(scope="module")
def drawer(hierarchical_model, processor):
    return Drawer(hierarchical_model, processor, Sampler(temperature=3.0))


def edit_of(tmp_path, mask=None, rows=None, keep=None, image=None, paint_over=False):
    image = image or picture("red", "box")
    image.save(tmp_path / "image.png")
    if mask is not None:
        mask.save(tmp_path / "mask.png")
        mask = tmp_path / "mask.png"
    return EditSettings(
        image=tmp_path / "image.png",
        keep_mask=mask,
        keep_rows=rows,
        keep=keep,
        paint_over=paint_over,
    )


def drawn(drawer, kept, count=12):
    """(count, N) codes of as many seeds."""
    requests = [ImageRequest("a red bar", seed, kept=kept) for seed in range(count)]
    codes = dict(drawer.draw(requests))
    return torch.stack([codes[number] for number in range(count)])


def test_a_mask_keeps_the_white_patches_and_draws_the_rest(drawer, tmp_path):
    mask = Image.new("L", (16, 16), 255)
    mask.putpixel((12, 3), 0)  # a single pixel opens its whole patch, the second of four
    kept = keep(drawer, edit_of(tmp_path, mask))
    own = drawer.codes_of(picture("red", "box"))
    codes = drawn(drawer, kept.kept)
    assert torch.equal(codes[:, [0, 2, 3]], own[[0, 2, 3]].expand(12, 3))
    assert len(codes[:, 1].unique()) > 1
    assert kept.record["what"] == "3 patches"


def test_rows_and_semantics_stay(drawer, tmp_path):
    own = drawer.codes_of(picture("red", "box"))
    codes = drawn(drawer, keep(drawer, edit_of(tmp_path, rows=1)).kept)
    assert torch.equal(codes[:, :2], own[:2].expand(12, 2))
    assert len({tuple(row) for row in codes[:, 2:].tolist()}) > 1
    codes = drawn(drawer, keep(drawer, edit_of(tmp_path, keep="semantics")).kept)
    assert torch.equal(codes // NUM_PIXEL, (own // NUM_PIXEL).expand(12, 4))
    assert len({tuple(row) for row in (codes % NUM_PIXEL).tolist()}) > 1


def test_a_mask_of_a_wide_image_is_cut_like_the_image(drawer, tmp_path):
    image = Image.new("RGB", (64, 32), "red")
    mask = Image.new("L", (64, 32), 255)
    mask.paste(0, (0, 0, 16, 32))  # all of it outside of the middle square
    with pytest.raises(UserError, match="keeps the whole image"):
        keep(drawer, edit_of(tmp_path, mask, image=image))
    mask.paste(0, (16, 0, 30, 14))
    kept = keep(drawer, edit_of(tmp_path, mask, image=image))
    assert (kept.kept[:, 0] >= 0).tolist() == [False, True, True, True]


def test_painted_over_the_rest_does_not_know_what_was_there(drawer, tmp_path):
    def codes(lower, **options):
        image = picture("red", "box")
        image.paste(lower, (0, 8, 16, 16))
        kept = keep(drawer, edit_of(tmp_path, rows=1, image=image, **options))
        return kept.kept

    colours = [(0, 0, 0), (255, 255, 255), (20, 200, 40), (200, 20, 250)]
    assert len({codes(c, paint_over=True).numpy().tobytes() for c in colours}) == 1
    assert len({codes(c).numpy().tobytes() for c in colours}) > 1  # else the test shows nothing


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"mask": Image.new("L", (16, 8), 255)}, "mask has 16x8 pixels and the image 16x16"),
        ({"mask": Image.new("L", (32, 32), 255)}, "mask has 32x32 pixels and the image 16x16"),
        ({"mask": Image.new("L", (16, 16), 255)}, "keeps the whole image"),
        ({"mask": Image.new("L", (16, 16), 0)}, "keeps no patch"),
        ({"rows": 2}, "2 rows of patches; keep at most 1"),
    ],
)
def test_what_cannot_be_kept_is_one_sentence(drawer, tmp_path, options, complaint):
    with pytest.raises(UserError, match=complaint):
        keep(drawer, edit_of(tmp_path, **options))


def test_files_say_what_was_kept(world, processor, tmp_path):
    folder, out = tmp_path / "model", tmp_path / "out"
    make_model(world).save_pretrained(folder)
    processor.save_pretrained(folder)

    def draw(image=None):
        edit = edit_of(tmp_path, keep="semantics", image=image)
        generate(GenerateSettings(model=folder, out=out, num_images=2, edit=edit))

    draw()
    with Image.open(out / "00000-01.png") as image:
        assert json.loads(image.text["settings"])["kept"]["what"] == "semantics"
    draw()  # the same command resumes; another image is another drawing
    with pytest.raises(UserError, match="another settings"):
        draw(picture("blue", "bar"))
