"""Tiles of photographs: where they lie, what is held out, and what is refused."""

import random

import numpy as np
import pytest
from PIL import Image

from examples import photograph_tiles as tiles
from tests.prepared import prepare_sources


@pytest.fixture
def photographs(tmp_path):
    """Two photographs whose red channel is the column, and one of another colour."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    columns = np.zeros((60, 100, 3), np.uint8)
    columns[:, :, 0] = 2 * np.arange(100)
    for number, name in enumerate(("one", "two", "three")):
        columns[:, :, 2] = 100 * number
        Image.fromarray(columns).save(folder / f"{name}.png")
    return folder


def cut(folder, out, *options):
    """Tiles of 16 pixels, by the command."""
    tiles.main([str(folder), "--out", str(out), "--size", "16", *map(str, options)])
    return out


def pixels(folder):
    return {path.stem: np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))}


def test_no_pixel_is_both_trained_and_measured_on(photographs, tmp_path):
    out = tmp_path / "tiles"
    cut(photographs, out, "--num-tiles", 30, "--num-held-out", 10, "--hold-out", "three")
    train, regions, held_out = (
        pixels(out / part) for part in ("train", "held-out-regions", "held-out-photographs")
    )
    assert {name.split("-")[0] for name in train} == {"one", "two"}
    assert {name.split("-")[0] for name in held_out} == {"three"}
    assert len(train) == 60 and len(regions) == 20 and len(held_out) == 10
    shapes = {tile.shape for part in (train, regions, held_out) for tile in part.values()}
    assert shapes == {(16, 16, 3)}
    # Column 75 of 100 is where the regions to measure on begin; a scaled tile may overshoot a bit.
    assert max(tile[..., 0].max() for tile in train.values()) <= 2 * 75
    assert min(tile[..., 0].min() for tile in regions.values()) >= 2 * 75 - 2
    assert max(tile[..., 0].max() for tile in train.values()) > 2 * 70


def test_tiles_can_be_prepared_and_are_captioned_by_their_photograph(photographs, tmp_path):
    cut(photographs, tmp_path / "tiles", "--num-tiles", 3, "--num-held-out", 1)
    data = prepare_sources(tmp_path / "tiles" / "train", tmp_path / "data")
    from data_pipelines.loading.dataset import PreparedDataset

    captions = {text.record_id: text.captions for text in PreparedDataset(data).texts()}
    assert captions["one-0000.png"] == ["a part of one"]
    assert len(captions) == 9


def test_the_same_seed_cuts_the_same_tiles(photographs, tmp_path):
    parts = [
        pixels(cut(photographs, tmp_path / str(number), "--num-tiles", 5, "--seed", seed) / "train")
        for number, seed in enumerate((0, 0, 1))
    ]
    same = [np.array_equal(parts[0][name], parts[1][name]) for name in parts[0]]
    other = [np.array_equal(parts[0][name], parts[2][name]) for name in parts[0]]
    assert all(same) and not all(other)


def test_squares_lie_in_their_box_and_have_every_size():
    rng = random.Random(0)
    squares = [tiles.random_square((10, 20, 110, 80), 15, rng) for _ in range(500)]
    for left, top, right, bottom in squares:
        assert right - left == bottom - top
        assert min(left - 10, top - 20, 110 - right, 80 - bottom) >= 0
    sides = [right - left for left, _, right, _ in squares]
    assert min(sides) < 17 and max(sides) > 57
    # A box that is too small gives what it has.
    assert tiles.random_square((0, 0, 8, 9), 15, rng)[2] <= 8


def test_the_sample_photographs_are_there():
    pytest.importorskip("skimage")
    pytest.importorskip("sklearn")
    paths = tiles.sample_photographs()
    assert len(paths) == 10 and all(path.is_file() for path in paths)
    assert set(tiles.HELD_OUT_SAMPLES.split(",")) < {path.stem for path in paths}


def test_missing_samples_are_named(monkeypatch):
    from runtime.errors import UserError

    monkeypatch.setattr(tiles, "find_spec", lambda package: None)
    with pytest.raises(UserError, match="pip install scikit-image scikit-learn"):
        tiles.sample_photographs()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--hold-out", "four"], "no photograph 'four'; known are"),
        (["--hold-out", "one,two,three"], "none is left to train on"),
        (["--size", "0"], "at least 1"),
        (["--out", "PHOTOGRAPHS"], "is not empty"),
    ],
)
def test_bad_input_is_one_sentence(photographs, tmp_path, options, message, capsys):
    options = [str(photographs) if word == "PHOTOGRAPHS" else word for word in options]
    with pytest.raises(SystemExit):
        tiles.main([str(photographs), "--out", str(tmp_path / "out"), *options])
    lines = capsys.readouterr().err.splitlines()
    assert message in lines[-1] and "Traceback" not in lines[-1]


def test_the_command_says_what_it_wrote(photographs, tmp_path, capsys):
    out = tmp_path / "out"
    tiles.main([str(photographs), "--out", str(out), "--num-tiles", "2", "--hold-out", "one"])
    assert capsys.readouterr().out == f"wrote {out}\n"
    assert len(pixels(out / "train")) == 4
