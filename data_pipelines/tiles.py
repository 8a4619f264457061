"""A few large photographs as many small images: random crops, and others held out for measuring.

    python -m data_pipelines.tiles --out runs/photos/tiles                 # sample photographs
    python -m data_pipelines.tiles MY_FOLDER --hold-out one,two --out DIR  # photographs of yours

writes three folders of PNG files, each tile with a caption that names its photograph:

    train/                   from the left of every photograph that is not held out
    held-out-regions/        from the right quarter of the same photographs
    held-out-photographs/    from photographs that nothing of was trained on

The sample photographs are those of scikit-image and scikit-learn, which ship in the packages.
"""

from __future__ import annotations

import argparse
import math
import random
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from data_pipelines.images import open_image
from data_pipelines.sources.image_folder import list_images
from runtime.errors import UserError
from runtime.run_folder import make_folder

SAMPLES = {
    "skimage": (
        "data",
        "astronaut.png chelsea.png coffee.png hubble_deep_field.jpg ihc.png motorcycle_left.png "
        "retina.jpg rocket.jpg",
    ),
    "sklearn": ("datasets/images", "china.jpg flower.jpg"),
}
"""Package → folder below it, and the colour photographs there."""

HELD_OUT_SAMPLES = ("coffee", "flower")
TRAIN_SHARE = 0.75
"""Of a photograph's width, from the left; the rest is for measuring, and no pixel is in both."""

TRAIN, REGIONS, PHOTOGRAPHS = "train", "held-out-regions", "held-out-photographs"
Box = tuple[int, int, int, int]


def sample_photographs() -> list[Path]:
    """Paths of the sample photographs.

    Raises:
        UserError: if a package is not installed.
    """
    paths = []
    for package, (folder, names) in SAMPLES.items():
        spec = find_spec(package)  # without importing it
        if spec is None or spec.origin is None:
            raise UserError(
                "the sample photographs ship with scikit-image and scikit-learn: run "
                "`pip install scikit-image scikit-learn`, or name a folder of photographs"
            )
        paths += [Path(spec.origin).parent / folder / name for name in names.split()]
    return paths


def random_square(box: Box, smallest: int, chance: random.Random) -> Box:
    """A square inside a box: a side from `smallest` to the box's shorter one, anywhere.

    The side is drawn evenly in its logarithm, so that details and whole scenes are alike in number.
    """
    left, top, right, bottom = box
    largest = min(right - left, bottom - top)
    side = round(math.exp(chance.uniform(math.log(min(smallest, largest)), math.log(largest))))
    x, y = chance.randint(left, right - side), chance.randint(top, bottom - side)
    return x, y, x + side, y + side


def cut_tiles(
    photographs: list[Path],
    out: Path,
    size: int = 128,
    num_tiles: int = 300,
    num_held_out: int = 32,
    hold_out: tuple[str, ...] = (),
    seed: int = 0,
) -> Path:
    """Cut photographs into tiles.

    Args:
        photographs: image files; a photograph is called by its file name without the ending.
        out: folder to write; new or empty.
        size: side of a tile in pixels. A crop is never smaller than that where the photograph
            allows, and larger ones are scaled down.
        num_tiles: of each photograph, to train on.
        num_held_out: of each photograph, to measure on.
        hold_out: names of photographs that are not trained on.
        seed: of the places.

    Returns:
        `out`.

    Raises:
        UserError: if a name is unknown or not unique, nothing is left to train on, or the folder
            holds something.
    """
    named = {path.stem: path for path in photographs}
    if len(named) < len(photographs):
        raise UserError("two photographs have the same name: rename one of them")
    unknown = [name for name in hold_out if name not in named]
    if unknown:
        raise UserError(f"there is no photograph {unknown[0]!r}; known are {', '.join(named)}")
    if set(named) == set(hold_out):
        raise UserError("every photograph is held out and none is left to train on")
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty; give another folder with --out")
    for name, path in named.items():
        picture = open_image(path)
        width, height = picture.size
        cut = round(TRAIN_SHARE * width)
        parts: dict[str, tuple[Box, int]] = {
            TRAIN: ((0, 0, cut, height), num_tiles),
            REGIONS: ((cut, 0, width, height), num_held_out),
        }
        if name in hold_out:
            parts = {PHOTOGRAPHS: ((0, 0, width, height), num_held_out)}
        for part, (box, number) in parts.items():
            _write_tiles(picture, name, box, make_folder(out / part), size, number, seed)
    return out


def _write_tiles(
    picture: Image.Image, name: str, box: Box, folder: Path, size: int, number: int, seed: int
) -> None:
    chance = random.Random(f"{seed} {name} {folder.name}")
    for index in range(number):
        square = random_square(box, size, chance)
        tile = picture.resize((size, size), Image.Resampling.BICUBIC, box=square, reducing_gap=2)
        path = folder / f"{name}-{index:04d}.png"
        tile.save(path)
        path.with_suffix(".txt").write_text(f"a part of {name.replace('_', ' ')}\n")


def main(arguments: list[str] | None = None) -> None:
    """Cut what the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.tiles",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folder", nargs="?", type=Path, help="photographs of your own (default: the samples)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--hold-out",
        metavar="NAME,...",
        help=f"photographs not to train on (default: {','.join(HELD_OUT_SAMPLES)} of the samples)",
    )
    for option, default, what in (
        ("--size", 128, "side of a tile in pixels"),
        ("--num-tiles", 300, "tiles to train on, of each photograph"),
        ("--num-held-out", 32, "tiles to measure on, of each photograph"),
        ("--seed", 0, "of the places"),
    ):
        parser.add_argument(
            option, type=int, default=default, metavar="N", help=f"{what} (default: {default})"
        )
    args = parser.parse_args(arguments)
    hold_out = () if args.folder else HELD_OUT_SAMPLES
    if args.hold_out is not None:
        hold_out = tuple(name for name in args.hold_out.split(",") if name)
    try:
        photographs = list_images(args.folder) if args.folder else sample_photographs()
        if min(args.size, args.num_tiles, args.num_held_out) < 1:
            raise UserError("--size, --num-tiles and --num-held-out must be at least 1")
        out = cut_tiles(
            photographs,
            args.out,
            args.size,
            args.num_tiles,
            args.num_held_out,
            hold_out,
            args.seed,
        )
    except UserError as error:
        parser.error(str(error))
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
