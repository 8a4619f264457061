"""A few large photographs as many small images: random crops, and others held out for measuring.

    python examples/photograph_tiles.py --out runs/photos/tiles                 # sample photographs
    python examples/photograph_tiles.py MY_FOLDER --hold-out one,two --out DIR  # your own

writes three folders of PNG files, each tile with a caption that names its photograph:

    train/                   from the left of every photograph that is not held out
    held-out-regions/        from the right quarter of the same photographs
    held-out-photographs/    from photographs of which nothing is trained on

The sample photographs are those of scikit-image and scikit-learn, which ship in the packages.
"""

import argparse
import math
import random
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from data_pipelines.images import open_image
from data_pipelines.sources.image_folder import list_images
from runtime.errors import UserError

SAMPLES = {
    "skimage": (
        "data",
        "astronaut.png chelsea.png coffee.png hubble_deep_field.jpg ihc.png motorcycle_left.png "
        "retina.jpg rocket.jpg",
    ),
    "sklearn": ("datasets/images", "china.jpg flower.jpg"),
}
"""Package → folder below it, and the colour photographs there."""

HELD_OUT_SAMPLES = "coffee,flower"
TRAIN_FRACTION = 0.75
"""Of a photograph's width, from the left; the rest is for measuring, and no pixel is in both."""


def sample_photographs() -> list[Path]:
    """Paths of the sample photographs."""
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


def random_square(box: tuple, smallest: int, rng: random.Random) -> tuple[int, int, int, int]:
    """A square inside a box: a side from `smallest` to the box's shorter one, anywhere.

    The side is drawn evenly in its logarithm, so that details and whole scenes are alike in number.
    """
    left, top, right, bottom = box
    largest = min(right - left, bottom - top)
    side = round(math.exp(rng.uniform(math.log(min(smallest, largest)), math.log(largest))))
    x, y = rng.randint(left, right - side), rng.randint(top, bottom - side)
    return x, y, x + side, y + side


def cut_tiles(photographs: list[Path], hold_out: list[str], args: argparse.Namespace) -> None:
    """Cut photographs, of which those called `hold_out` are not trained on, into tiles."""
    named = {path.stem: path for path in photographs}
    if len(named) < len(photographs):
        raise UserError("two photographs have the same name: rename one of them")
    if unknown := [name for name in hold_out if name not in named]:
        raise UserError(f"there is no photograph {unknown[0]!r}; known are {', '.join(named)}")
    if set(named) == set(hold_out):
        raise UserError("every photograph is held out and none is left to train on")
    if args.out.exists() and any(args.out.iterdir()):
        raise UserError(f"{args.out} is not empty; give another folder with --out")
    for name, path in named.items():
        picture = open_image(path)
        width, height = picture.size
        cut = round(TRAIN_FRACTION * width)
        parts = {
            "train": ((0, 0, cut, height), args.num_tiles),
            "held-out-regions": ((cut, 0, width, height), args.num_held_out),
        }
        if name in hold_out:
            parts = {"held-out-photographs": ((0, 0, width, height), args.num_held_out)}
        for part, (box, count) in parts.items():
            folder = args.out / part
            folder.mkdir(parents=True, exist_ok=True)
            rng = random.Random(f"{args.seed} {name} {part}")
            for index in range(count):
                write_tile(picture, random_square(box, args.size, rng), args.size,
                           folder / f"{name}-{index:04d}.png")  # fmt: skip


def write_tile(picture: Image.Image, square: tuple, size: int, path: Path) -> None:
    """Scale a square of a photograph, and write it with its caption."""
    tile = picture.resize((size, size), Image.Resampling.BICUBIC, box=square, reducing_gap=2)
    tile.save(path)
    name = path.stem.rpartition("-")[0].replace("_", " ")
    path.with_suffix(".txt").write_text(f"a part of {name}\n")


def main(arguments: list[str] | None = None) -> None:
    """Cut what the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, help="your photographs (default: samples)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--hold-out",
        metavar="NAME,...",
        help=f"photographs not to train on (default: {HELD_OUT_SAMPLES} of the samples)",
    )
    for option, default, what in (
        ("--size", 128, "side of a tile in pixels"),
        ("--num-tiles", 300, "tiles to train on, of each photograph"),
        ("--num-held-out", 32, "tiles to measure on, of each photograph"),
        ("--seed", 0, "of the positions"),
    ):
        parser.add_argument(
            option, type=int, default=default, metavar="N", help=f"{what} (default: {default})"
        )
    args = parser.parse_args(arguments)
    if args.hold_out is None:
        args.hold_out = "" if args.folder else HELD_OUT_SAMPLES
    try:
        if min(args.size, args.num_tiles, args.num_held_out) < 1:
            raise UserError("--size, --num-tiles and --num-held-out must be at least 1")
        photographs = list_images(args.folder) if args.folder else sample_photographs()
        cut_tiles(photographs, [name for name in args.hold_out.split(",") if name], args)
    except UserError as error:
        parser.error(str(error))
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
