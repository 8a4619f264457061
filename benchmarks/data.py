"""Images per second from prepared shards to both views of a batch, memory, and start-up.

Measures the stream (decode, crop, uint8 batches, then both normalisations of the whole batch)
against the plain way, `datasets` with a transform on the fly (its decoded image, the same crop,
both normalisations of each image) in torch's loader, shuffled alike, in turn in one process, for
several numbers of workers. The pictures are JPEGs, 640 x 480 by default, made from photographs
where scikit-image is installed, else from coloured noise of all scales. `ours` gives the same
pixels but for one value in 10,000, rounded to its neighbour; `fast` decodes large JPEGs at a
fraction of their size, where the shorter side is still enough at a half.

Then the memory that 200,000 records leave behind, and the seconds from opening a folder whose
manifest lists 1,000,000 records to the first record of a shuffled stream.
"""

import argparse
import io
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch.utils.data import DataLoader

from benchmarks import protocol
from data_pipelines.images import to_tensor
from data_pipelines.loading.dataset import PreparedDataset
from data_pipelines.loading.stream import CaptionedImage, Stream, StreamSource
from data_pipelines.loading.transforms import ImageTransform, Normalisation, two_views
from data_pipelines.records import SCHEMA, SCHEMA_VERSION, Record, record_to_row
from runtime.files import file_sha256, write_json

SIZE = 256
BATCH_SIZE = 32
TEACHER = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
STARTUP = """
import json, sys, time
started = time.perf_counter()
from data_pipelines.loading.dataset import PreparedDataset
from data_pipelines.loading.mixture import Mixture, MixtureSource
imported = time.perf_counter()
data = PreparedDataset(sys.argv[1])
draw = next(Mixture([MixtureSource("data", len(data))]))
record = data[draw.index]
ended = time.perf_counter()
assert len(data) == int(sys.argv[2]) and record.record_id
print(json.dumps({"import": imported - started, "open": ended - imported}))
"""

MEMORY = """
import json, sys
from pathlib import Path
from benchmarks.data import epoch_memory
print(json.dumps(epoch_memory(Path(sys.argv[1]), int(sys.argv[2]))))
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = protocol.make_parser(__doc__ or "", "python -m benchmarks.data")
    parser.add_argument("--num-images", type=protocol.positive, default=320)
    parser.add_argument("--width", type=protocol.positive, default=640, help="(default: 640)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--num-records", type=protocol.positive, default=200_000)
    parser.add_argument("--num-listed", type=protocol.positive, default=1_000_000)
    arguments = parser.parse_args(argv)
    protocol.start(arguments)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        rows = _time_images(work, arguments)
        memory = _memory(work, arguments.num_records)
        startup = _startup(work, arguments.num_listed)
    names = list(rows[0])
    protocol.print_table(names, [[row[name] for name in names] for row in rows])
    print(
        f"memory of its own after {memory['early']:,} and {arguments.num_records:,} records: "
        f"{memory['early_mb']:.0f} and {memory['late_mb']:.0f} MB"
    )
    print(
        f"start-up with {arguments.num_listed:,} records: {startup['open']:.2f} s, "
        f"and {startup['import']:.2f} s of imports"
    )
    protocol.print_result(
        "data", min(row["ratio"] for row in rows), rows=rows, memory=memory, startup=startup
    )


def _time_images(work: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Images per second of each way, for each number of workers."""
    pictures = _photographs(arguments.num_images, arguments.seed, arguments.width)
    records = [Record(f"p{i:06d}", data, ["a photograph"]) for i, data in enumerate(pictures)]
    folder = write_prepared(work / "photos", records, rows_per_shard=100)
    rows = []
    for num_workers in arguments.workers:
        ways: dict[str, Callable[[], Any]] = {
            "plain": lambda n=num_workers: plain(folder, n),  # type: ignore[misc]
            "ours": lambda n=num_workers: ours(folder, n),  # type: ignore[misc]
            "fast": lambda n=num_workers: ours(folder, n, fast=True),  # type: ignore[misc]
        }
        seconds = protocol.seconds_in_turn(ways, arguments.repeats)
        medians = {name: protocol.median(values) for name, values in seconds.items()}
        rows.append(
            {"workers": num_workers}
            | {f"{name}/s": len(records) / value for name, value in medians.items()}
            | {
                "ratio": medians["plain"] / medians["ours"],
                "fast ratio": medians["plain"] / medians["fast"],
            }
        )
    return rows


def ours(folder: Path, num_workers: int, fast: bool = False) -> int:
    """One epoch of the stream; returns its images."""
    source = StreamSource("photos", PreparedDataset(folder, images_only=True), epochs=1)
    item = CaptionedImage(ImageTransform(SIZE), fast_jpeg=fast)
    count = 0
    for batch in Stream([source], item, BATCH_SIZE, num_workers=num_workers):
        teacher, pixels = two_views(batch["pixels"], TEACHER)
        assert teacher.shape == pixels.shape
        count += len(pixels)
    return count


def plain(folder: Path, num_workers: int) -> int:
    """The alternative: one epoch of `datasets` with a transform; returns its images."""
    import datasets

    datasets.disable_progress_bars()
    files = sorted(str(path) for path in folder.glob("*.parquet"))
    table = datasets.Dataset.from_parquet(files, cache_dir=str(folder / "datasets"))
    table = table.select_columns(["image", "captions"]).cast_column("image", datasets.Image())
    loader = DataLoader(
        table.with_transform(_plain_transform),
        batch_size=BATCH_SIZE,
        shuffle=True,
        num_workers=num_workers,
    )
    return sum(len(batch["pixels"]) for batch in loader)


def _plain_transform(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
    mean, std = (torch.tensor(each)[:, None, None] for each in (TEACHER.mean, TEACHER.std))
    views = [to_tensor(_plain_square(image.convert("RGB"))) for image in rows["image"]]
    return {
        "pixels": views,
        "teacher": [((view + 1) / 2 - mean) / std for view in views],
        "caption": [captions[0] for captions in rows["captions"]],
    }


def _plain_square(image: Image.Image) -> Image.Image:
    """Shorter side scaled, middle cut, as it is usually written."""
    scale = SIZE / min(image.size)
    width, height = (max(SIZE, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - SIZE) // 2, (height - SIZE) // 2
    return image.crop((left, top, left + SIZE, top + SIZE))


def _memory(work: Path, num_records: int) -> dict[str, Any]:
    """A new process's own memory early in an epoch of many small images, and at its end."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "teal").save(buffer, "PNG")
    records = [Record(f"r{i:07d}", buffer.getvalue(), ["a square"]) for i in range(num_records)]
    folder = write_prepared(work / "many", records, rows_per_shard=10_000)
    early = max(1, num_records // 10)
    return {"early": early, **_in_new_process(MEMORY, str(folder), str(early))}


def epoch_memory(folder: Path, early: int) -> dict[str, float]:
    """Read one epoch; the process's own memory after `early` records and after all."""
    source = StreamSource("many", PreparedDataset(folder), epochs=1)
    seen, measured = 0, {}
    for batch in Stream([source], CaptionedImage(ImageTransform(8)), 500):
        before, seen = seen, seen + len(batch["caption"])
        if before < early <= seen:
            measured["early_mb"] = _own_megabytes()
    assert seen == len(source.records)
    return {**measured, "late_mb": _own_megabytes()}


def _in_new_process(code: str, *arguments: str) -> dict[str, float]:
    """What a Python process prints as JSON; this one's memory is full of other measurements."""
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        check=True, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    found: dict[str, float] = json.loads(ended.stdout)
    return found


def _own_megabytes() -> float:
    """Memory of the process that is no file's, so without the mapped shards."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status tells no RssAnon")


def _startup(work: Path, num_listed: int) -> dict[str, float]:
    """Seconds of a new process to its first record; the median of three."""
    records = [Record(f"r{i:04d}", None, text="a text") for i in range(2000)]
    folder = write_prepared(work / "listed", records, 2000, copies=-(-num_listed // 2000))
    count = json.loads((folder / "manifest.json").read_text())["counts"]["records"]
    runs = [_in_new_process(STARTUP, str(folder), str(count)) for _ in range(3)]
    return {name: protocol.median([run[name] for run in runs]) for name in runs[0]}


def write_prepared(
    folder: Path, records: list[Record], rows_per_shard: int, copies: int = 1
) -> Path:
    """A folder as `prepare` writes it, without its checks.

    Args:
        folder: to write.
        records: what it holds.
        rows_per_shard: records of a shard.
        copies: times that the shards are listed, each as a file of its own name.
    """
    folder.mkdir()
    shards: list[dict[str, Any]] = []
    for copy in range(copies):
        for start in range(0, len(records), rows_per_shard):
            rows = records[start : start + rows_per_shard]
            path = folder / f"data-{len(shards):05d}.parquet"
            if copy:
                path.hardlink_to(folder / shards[start // rows_per_shard]["file"])
                shards.append(shards[start // rows_per_shard] | {"file": path.name})
                continue
            table = pa.Table.from_pylist([record_to_row(row) for row in rows], schema=SCHEMA)
            pq.write_table(table, path, compression="zstd")
            size = path.stat().st_size
            digest = file_sha256(path)
            shards.append({"file": path.name, "rows": len(rows), "bytes": size, "sha256": digest})
    images = sum(record.image is not None for record in records)
    write_json(
        folder / "manifest.json",
        {
            "schema_version": SCHEMA_VERSION,
            "licences": [],
            "counts": {"records": len(records) * copies, "images": images * copies},
            "shards": shards,
        },
    )
    return folder


def _photographs(count: int, seed: int, width: int = 640) -> list[bytes]:
    """JPEGs of `width` pixels, three quarters as high."""
    draw = random.Random(seed)
    originals = _originals()
    found = []
    for _ in range(count):
        image = draw.choice(originals)
        left, top = (draw.uniform(0, side / 4) for side in image.size)
        box = (left, top, left + image.width * 0.75, top + image.height * 0.75)
        buffer = io.BytesIO()
        size = (width, width * 3 // 4)
        image.resize(size, Image.Resampling.BICUBIC, box=box).save(buffer, "JPEG", quality=90)
        found.append(buffer.getvalue())
    return found


def _originals() -> list[Image.Image]:
    """Photographs, or noise of all scales."""
    try:
        from skimage import data

        return [Image.fromarray(each()) for each in (data.astronaut, data.coffee, data.chelsea)]
    except ImportError:
        draw = np.random.default_rng(0)
        noise = np.zeros((480, 640, 3))
        for scale in (4, 16, 64, 240):
            small = draw.integers(0, 256, (scale, scale, 3), np.uint8)
            noise += np.asarray(Image.fromarray(small).resize((640, 480))) / 4
        return [Image.fromarray(noise.astype(np.uint8))]


if __name__ == "__main__":
    main()
