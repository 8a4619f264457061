"""Images per second from prepared shards to both views of a batch, memory, and start-up.

Measures the trainers' way (decode, crop, bytes, then both normalisations of the whole batch)
against the plain one: `datasets` with a transform on the fly (its decoded image, the same crop,
both normalisations of each image) in torch's loader, shuffled alike, in turn in one process, for
several numbers of workers. The pictures are JPEGs, 640 x 480 by default, made from photographs
where scikit-image is installed, else from coloured noise. Both ways give the same pixels, but for
one value in 10,000, rounded to its neighbour.

Then the memory that 200,000 records leave behind, and the seconds from opening a folder whose
manifest lists 1,000,000 records to the first record of a shuffled order.
"""

import argparse
import io
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks import protocol
from data_pipelines.images import scale_pixels, to_tensor
from data_pipelines.loading.batches import StepBatches
from data_pipelines.loading.dataset import PreparedDataset
from data_pipelines.loading.image_dataset import PreparedImages
from data_pipelines.manifest import MANIFEST_NAME
from data_pipelines.records import SCHEMA_VERSION, Record, record_to_row
from data_pipelines.shards import writing_shard
from runtime.files import write_json
from runtime.storage import Storage

SIZE = 256
BATCH_SIZE = 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Normalisation of the teacher's view."""

STARTUP = """
import json, sys, time
started = time.perf_counter()
from data_pipelines.loading.batches import StepBatches
from data_pipelines.loading.dataset import PreparedDataset
imported = time.perf_counter()
data = PreparedDataset(sys.argv[1])
record = data[StepBatches(len(data), 1, seed=0).indices(0)[0]]
ended = time.perf_counter()
assert len(data) == int(sys.argv[2]) and record.record_id
print(json.dumps({"import": imported - started, "open": ended - imported}))
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = protocol.make_parser(__doc__, "python -m benchmarks.data")
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
    protocol.print_table(rows)
    print(
        f"memory of its own after {memory['early']:,} and {arguments.num_records:,} records: "
        f"{memory['early_mb']:.0f} and {memory['late_mb']:.0f} MB"
    )
    print(
        f"start-up with {arguments.num_listed:,} records: {startup['open']:.2f} s, "
        f"and {startup['import']:.2f} s of imports"
    )
    ratio = min(row["ratio"] for row in rows)
    protocol.print_result("data", ratio, arguments, rows=rows, memory=memory, startup=startup)


def _time_images(work: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Images per second of each way, for each number of workers."""
    pictures = _photographs(arguments.num_images, arguments.seed, arguments.width)
    records = [Record(f"p{i:06d}", data, ["a photograph"]) for i, data in enumerate(pictures)]
    folder = write_prepared(work / "photos", records, rows_per_shard=100)
    rows = []
    for num_workers in arguments.workers:
        ways = {way.__name__: partial(way, folder, num_workers) for way in (plain, ours)}
        seconds = protocol.median_seconds(ways, arguments.repeats)
        speeds = {f"{name}/s": len(records) / value for name, value in seconds.items()}
        ratio = seconds["plain"] / seconds["ours"]
        rows.append({"workers": num_workers, **speeds, "ratio": ratio})
    return rows


def ours(folder: Path, num_workers: int) -> int:
    """One epoch as the trainers read it; returns its images."""
    count = 0
    for batch in _epoch(PreparedImages(PreparedDataset(folder), SIZE), BATCH_SIZE, num_workers):
        pixels = scale_pixels(batch["pixels"].flatten(0, 1))
        assert teacher_view(pixels).shape == pixels.shape
        count += len(pixels)
    return count


def _epoch(images: PreparedImages, batch_size: int, num_workers: int) -> Iterator[dict[str, Any]]:
    """The whole batches of one shuffled epoch, and what is left of it."""
    order = StepBatches(len(images), 1, seed=0)
    indices = [order.indices(step)[0] for step in range(len(images))]
    return iter(DataLoader(images, batch_size, sampler=indices, num_workers=num_workers))


def teacher_view(pixels: Tensor) -> Tensor:
    """(..., 3, H, W) in [-1, 1] as a teacher wants it."""
    mean, std = (torch.tensor(each)[:, None, None] for each in (MEAN, STD))
    return pixels.mul(0.5 / std).add_((0.5 - mean) / std)


def plain(folder: Path, num_workers: int) -> int:
    """The alternative: one epoch of `datasets` with a transform; returns its images."""
    import datasets

    datasets.disable_progress_bars()
    files = sorted(str(path) for path in folder.glob("*.arrow"))
    cache = str(folder / "datasets")
    table = datasets.load_dataset("arrow", data_files=files, split="train", cache_dir=cache)
    table = table.select_columns(["image", "captions"]).cast_column("image", datasets.Image())
    shown = table.with_transform(_plain_transform)
    loader = DataLoader(shown, BATCH_SIZE, shuffle=True, num_workers=num_workers)
    return sum(len(batch["pixels"]) for batch in loader)


def _plain_transform(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
    views = [to_tensor(_plain_square(image.convert("RGB"))) for image in rows["image"]]
    return {
        "pixels": views,
        "teacher": [teacher_view(view) for view in views],
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
    image = _encoded(Image.new("RGB", (8, 8), "teal"), "PNG")
    records = [Record(f"r{i:07d}", image, ["a square"]) for i in range(num_records)]
    folder = write_prepared(work / "many", records, rows_per_shard=10_000)
    early = max(1, num_records // 10)
    code = "import sys, benchmarks.data as data; data.print_memory(sys.argv[1], int(sys.argv[2]))"
    return {"early": early, **_in_new_process(code, str(folder), str(early))}


def print_memory(folder: str, early: int) -> None:
    """Read one epoch; print the process's own memory after `early` records and after all."""
    images = PreparedImages(PreparedDataset(folder), 8)
    seen, measured = 0, {}
    for batch in _epoch(images, 500, num_workers=0):
        before, seen = seen, seen + len(batch["caption"])
        if before < early <= seen:
            measured["early_mb"] = _own_megabytes()
    assert seen == len(images)
    print(json.dumps({**measured, "late_mb": _own_megabytes()}))


def _own_megabytes() -> float:
    """Memory of the process that is no file's, so without the mapped shards."""
    status = Path("/proc/self/status").read_text().split()
    return int(status[status.index("RssAnon:") + 1]) / 1024


def _in_new_process(code: str, *arguments: str) -> dict[str, float]:
    """What a Python process prints as JSON; this one's memory is full of other measurements."""
    command = [sys.executable, "-c", code, *arguments]
    ended = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    return json.loads(ended.stdout)


def _startup(work: Path, num_listed: int) -> dict[str, float]:
    """Seconds of a new process to its first record; the median of three."""
    records = [Record(f"r{i:04d}", None, text="a text") for i in range(2000)]
    folder = write_prepared(work / "listed", records, 2000, copies=-(-num_listed // 2000))
    count = json.loads((folder / MANIFEST_NAME).read_text())["counts"]["records"]
    runs = [_in_new_process(STARTUP, str(folder), str(count)) for _ in range(3)]
    return protocol.medians({name: [run[name] for run in runs] for name in runs[0]})


def write_prepared(
    folder: Path, records: list[Record], rows_per_shard: int, copies: int = 1
) -> Path:
    """A folder as `prepare` writes it, without its checks; its shards are listed `copies` times."""
    folder.mkdir()
    shards: list[dict[str, Any]] = []
    for start in range(0, len(records), rows_per_shard):
        with writing_shard(Storage(folder), f"data-{len(shards):05d}.arrow") as shard:
            for record in records[start : start + rows_per_shard]:
                shard.add(record_to_row(record))
        shards.append(shard.entry)
    written = list(shards)
    for number in range(len(written), len(written) * copies):
        original = written[number % len(written)]
        shards.append(original | {"file": f"data-{number:05d}.arrow"})
        (folder / shards[-1]["file"]).hardlink_to(folder / original["file"])
    images = sum(record.image is not None for record in records)
    counts = {"records": len(records) * copies, "images": images * copies}
    manifest = {"schema_version": SCHEMA_VERSION, "counts": counts, "shards": shards}
    write_json(folder / MANIFEST_NAME, manifest)
    return folder


def _photographs(count: int, seed: int, width: int = 640) -> list[bytes]:
    """JPEGs of `width` pixels, three quarters as high."""
    rng = random.Random(seed)
    try:
        from skimage import data

        originals = [Image.fromarray(each()) for each in (data.astronaut, data.coffee)]
    except ImportError:
        noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
        originals = [Image.fromarray(noise).resize((640, 480))]
    found = []
    for _ in range(count):
        image = rng.choice(originals)
        left, top = (rng.uniform(0, side / 4) for side in image.size)
        box = (left, top, left + image.width * 0.75, top + image.height * 0.75)
        size = (width, width * 3 // 4)
        found.append(_encoded(image.resize(size, Image.Resampling.BICUBIC, box=box), "JPEG"))
    return found


def _encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=90)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
