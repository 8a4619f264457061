"""A few large photographs as many small images: random crops, and others held out for measuring.

    python examples/photograph_tiles.py --out DIR   # samples of scikit-image and scikit-learn
    python examples/photograph_tiles.py MY_FOLDER --hold-out one,two --out DIR      # your own

writes three folders of PNG files, each tile with a caption that names its photograph:

    train/                   from the left of every photograph that is not held out
    held-out-regions/        from the right quarter of the same photographs
    held-out-photographs/    from photographs of which nothing is trained on
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
    "skimage/data": "astronaut.png chelsea.png coffee.png hubble_deep_field.jpg ihc.png "
    "motorcycle_left.png retina.jpg rocket.jpg",
    "sklearn/datasets/images": "china.jpg flower.jpg",
}
"""Package and folder inside it → the colour photographs there."""
HELD_OUT_SAMPLES = "coffee,flower"


def sample_photographs() -> list[Path]:
    """Paths of the sample photographs."""
    paths = []
    for place, names in SAMPLES.items():
        package, _, folder = place.partition("/")
        spec = find_spec(package)  # without importing it
        if spec is None or spec.origin is None:
            raise UserError("run `pip install scikit-image scikit-learn`, or name your own folder")
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
        picture, caption = open_image(path), f"a part of {name.replace('_', ' ')}\n"
        width, height = picture.size
        cut = round(0.75 * width)  # no pixel is both trained and measured on
        parts = [("held-out-photographs", (0, 0, width, height), args.num_held_out)]
        if name not in hold_out:
            parts = [("train", (0, 0, cut, height), args.num_tiles)]
            parts += [("held-out-regions", (cut, 0, width, height), args.num_held_out)]
        for part, box, count in parts:
            folder = args.out / part
            folder.mkdir(parents=True, exist_ok=True)
            rng = random.Random(f"{args.seed} {name} {part}")
            for index in range(count):
                square, size = random_square(box, args.size, rng), (args.size, args.size)
                tile = picture.resize(size, Image.Resampling.BICUBIC, square, reducing_gap=2)
                tile.save(folder / f"{name}-{index:04d}.png")
                (folder / f"{name}-{index:04d}.txt").write_text(caption)


def main(arguments: list[str] | None = None) -> None:
    """Cut what the command line names."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    add = parser.add_argument
    add("folder", nargs="?", type=Path, help="your photographs (default: samples)")
    add("--out", type=Path, required=True, metavar="DIR")
    add("--hold-out", metavar="NAME,...", help=f"not to train on (samples: {HELD_OUT_SAMPLES})")
    add("--size", type=int, default=128, help="pixels of a tile's side (default: 128)")
    add("--num-tiles", type=int, default=300, help="of a photograph, to train on (default: 300)")
    add("--num-held-out", type=int, default=32, help="of one, to measure on (default: 32)")
    add("--seed", type=int, default=0, help="of the positions (default: 0)")
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
