import pytest
from PIL import Image
from pydantic import ValidationError

from runtime.errors import UserError
from tests.limits import largest_file
from tokenizer.extraction import reconstruct as task
from tokenizer.extraction.settings import ReconstructSettings
from tokenizer.saved.model_folder import save_tokenizer


def reconstruct(tokenizer, images, out, **options):
    return task.reconstruct(
        ReconstructSettings(tokenizer=tokenizer, images=images, out=out, **options)
    )


@pytest.fixture(scope="module")
def tokenizer_folder(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(tiny_model(), folder)
    return folder


def test_original_and_reconstruction_stand_side_by_side(tokenizer_folder, image_folder, tmp_path):
    images = [image_folder / "00.png", image_folder / "01.png"]
    out = reconstruct(tokenizer_folder, images, tmp_path / "out")
    assert {path.name for path in out.iterdir()} == {"00.png", "01.png"}
    with Image.open(out / "00.png") as pair, Image.open(images[0]) as original:
        assert pair.size == (64, 32)
        assert pair.crop((0, 0, 32, 32)).tobytes() == original.tobytes()


def test_images_of_other_sizes_are_brought_to_the_models(tokenizer_folder, tmp_path):
    Image.new("L", (100, 50), 90).save(tmp_path / "wide.png")
    out = reconstruct(tokenizer_folder, [tmp_path / "wide.png"], tmp_path / "out")
    with Image.open(out / "wide.png") as pair:
        assert pair.size == (64, 32)


def test_another_resolution_than_the_models(tokenizer_folder, image_folder, tmp_path):
    images = [image_folder / "00.png"]
    out = reconstruct(tokenizer_folder, images, tmp_path / "out", resolution=48)
    with Image.open(out / "00.png") as pair:
        assert pair.size == (96, 48)
    with pytest.raises(UserError, match=r"resolution 50 is not divisible .* take 48"):
        reconstruct(tokenizer_folder, images, tmp_path / "refused", resolution=50)
    assert not (tmp_path / "refused").exists()


def test_two_images_of_one_name_are_refused(tokenizer_folder, image_folder, tmp_path):
    (tmp_path / "00.png").write_bytes((image_folder / "00.png").read_bytes())
    with pytest.raises(UserError, match="two images are named '00'"):
        reconstruct(tokenizer_folder, [image_folder / "00.png", tmp_path / "00.png"], tmp_path)


def test_a_resolution_that_memory_cannot_hold_is_refused_with_both_numbers(
    tokenizer_folder, image_folder, tmp_path, monkeypatch
):
    monkeypatch.setattr("runtime.memory.available_bytes", lambda: 10**9)
    message = r"1 images at a resolution of 16000 would take about \d+\.\d GB .* 1\.0 GB are"
    with pytest.raises(UserError, match=message):
        reconstruct(tokenizer_folder, [image_folder / "00.png"], tmp_path, resolution=16_000)
    with pytest.raises(ValidationError, match="less than or equal to 16384"):
        reconstruct(tokenizer_folder, [image_folder / "00.png"], tmp_path, resolution=10**6)


def test_a_full_disk_is_one_sentence(tokenizer_folder, image_folder, tmp_path):
    with largest_file(500), pytest.raises(UserError, match=r"cannot write .*00\.png"):
        reconstruct(tokenizer_folder, [image_folder / "00.png"], tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("size", [(1, 1), (3000, 1), (1, 3000), (2999, 3)])
def test_pictures_of_any_shape(tokenizer_folder, tmp_path, size):
    Image.effect_noise(size, 60).save(tmp_path / "odd.png")
    out = reconstruct(tokenizer_folder, [tmp_path / "odd.png"], tmp_path / "out")
    with Image.open(out / "odd.png") as pair:
        assert pair.size == (64, 32)
