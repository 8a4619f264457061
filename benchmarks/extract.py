"""Images per second of code extraction.

Measures ours (decode, encode in batches, pack, write shards) against the obvious loop, which opens
one image, encodes it and keeps its codes, in turn in one process; then ours on several ranks
against ours on one, each rank on one thread. The default tokenizer has the quickstart's size and
random weights.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks import protocol
from benchmarks.random_tokenizer import save_random_tokenizer
from data_pipelines.loading.dataset import PreparedDataset
from data_pipelines.prepare.run import prepare
from data_pipelines.prepare.settings import PrepareSettings
from runtime.rank_group import RankGroup
from runtime.storage import Storage
from tokenizer.extraction.code_shards import write_shard
from tokenizer.extraction.extract import encode_shards, make_manifest
from tokenizer.model.modeling_semhitok import SemHiTokModel
from tokenizer.saved.model_folder import load_tokenizer

NUM_SHARDS = 8


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark, or one launch of it."""
    arguments = _parse(argv)
    device = protocol.start(arguments)
    if arguments.only_ours:
        _time_ranks(arguments, device)
        return
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        tokenizer = arguments.tokenizer or save_random_tokenizer("quickstart", work / "tokenizer")
        data = arguments.data or Path(
            prepare(PrepareSettings(sources=["easy-vqa-test"], out=str(work / "data")))
        )
        _compare(arguments, device, tokenizer, data, work)


def _compare(
    arguments: argparse.Namespace, device: torch.device, tokenizer: Path, data: Path, work: Path
) -> None:
    model = load_tokenizer(tokenizer).to(device).eval()
    dataset = PreparedDataset(data, images_only=True)
    count = min(arguments.num_images or len(dataset), len(dataset))
    seconds = protocol.seconds_in_turn(
        {
            "one": lambda: one_by_one(model, dataset, count),
            "ours": lambda: ours(model, dataset, _shards(count), arguments, work / "codes"),
        },
        arguments.repeats,
    )
    speed = {name: count / protocol.median(values) for name, values in seconds.items()}
    ratio = speed["ours"] / speed["one"]
    rows = [
        ["one image at a time", speed["one"], 1.0],
        [f"batches of {arguments.batch_size}", speed["ours"], ratio],
    ]
    values = {
        "num_images": count,
        "image_size": model.config.image_size,
        "batch_size": arguments.batch_size,
        "images_per_second": speed["ours"],
        "images_per_second_one_by_one": speed["one"],
        "repeats": arguments.repeats,
        "device": str(device),
        "seed": arguments.seed,
    }
    if arguments.ranks > 1:
        counts = (1, arguments.ranks)
        launches = [
            [_launch(ranks, arguments, tokenizer, data, count) for ranks in counts]
            for _ in range(arguments.repeats)
        ]
        single, several = (protocol.median(column) for column in zip(*launches, strict=True))
        rows.append(["1 rank, 1 thread", single, 1.0])
        rows.append([f"{arguments.ranks} ranks, 1 thread each", several, several / single])
        values |= {
            "ranks": arguments.ranks,
            "ranks_ratio": several / single,
            "images_per_second_ranks": several,
            "images_per_second_one_rank": single,
        }
    protocol.print_table(["extraction", "images/s", "ratio"], rows)
    protocol.print_result("extract", ratio, **values)


@torch.inference_mode()
def one_by_one(model: SemHiTokModel, dataset: PreparedDataset, count: int) -> list:
    """The alternative: codes of the first `count` images, each alone through the model."""
    codes = []
    for index in range(count):
        image = dataset.image_tensor(index, model.config.image_size)
        encoded = model.encode(image[None].to(model.device))
        codes.append((encoded.semantic.cpu().numpy(), encoded.pixel.cpu().numpy()))
    return codes


def ours(
    model: SemHiTokModel,
    dataset: PreparedDataset,
    shards: list[range],
    arguments: argparse.Namespace,
    out: Path,
) -> None:
    """What `extract-codes` does once model and data are open."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    manifest = make_manifest(model, dataset, num_crops=1)
    encoded = encode_shards(model, dataset, shards, 1, arguments.batch_size, arguments.num_workers)
    for rows, (semantic, pixel) in zip(shards, encoded, strict=True):
        ids = dataset.ids[rows.start : rows.stop]
        write_shard(Storage(out), f"{rows.start}.arrow", manifest, ids, semantic, pixel)


def _shards(count: int) -> list[range]:
    size = -(-count // NUM_SHARDS)
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def _time_ranks(arguments: argparse.Namespace, device: torch.device) -> None:
    """On every rank of a launch: this rank's share of the shards, after one untimed round."""
    with RankGroup() as ranks, tempfile.TemporaryDirectory() as folder:
        where = f"cuda:{ranks.local_rank}" if device.type == "cuda" else "cpu"
        model = load_tokenizer(arguments.tokenizer).to(where).eval()
        dataset = PreparedDataset(arguments.data, images_only=True)
        count = arguments.num_images or len(dataset)
        mine = _shards(count)[ranks.rank :: ranks.world_size]
        for _ in range(2):
            ranks.gather(None)
            started = time.perf_counter()
            ours(model, dataset, mine, arguments, Path(folder) / "codes")
            ranks.gather(None)
            seconds = time.perf_counter() - started
        if ranks.rank == 0:
            print(json.dumps({"images_per_second": count / seconds}), flush=True)


def _launch(
    ranks: int, arguments: argparse.Namespace, tokenizer: Path, data: Path, count: int
) -> float:
    """Images per second of a launch on so many ranks."""
    options = {
        "tokenizer": Path(tokenizer).absolute(),
        "data": Path(data).absolute(),
        "num-images": count,
        "batch-size": arguments.batch_size,
        "num-workers": arguments.num_workers,
        "device": arguments.device,
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", str(ranks), "-m", "benchmarks.extract", "--only-ours"]
    command += [f"--{name}={value}" for name, value in options.items()]
    root = str(Path(__file__).parents[1])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    finished = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True, check=True, cwd=root
    )
    return json.loads(finished.stdout.splitlines()[-1])["images_per_second"]


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = protocol.make_parser(
        __doc__ or "",
        "python -m benchmarks.extract --tokenizer runs/quickstart/decoder/model "
        "--data runs/quickstart/data/test",
    )
    parser.add_argument("--tokenizer", type=Path, metavar="DIR", help="a trained one")
    parser.add_argument("--data", type=Path, metavar="DIR", help="prepared data")
    parser.add_argument(
        "--num-images", type=protocol.positive, metavar="N", help="to encode (default: all)"
    )
    parser.add_argument(
        "--batch-size", type=protocol.positive, default=32, help="images at once (default: 32)"
    )
    parser.add_argument(
        "--num-workers", type=int, default=0, help="processes that decode images (default: 0)"
    )
    parser.add_argument(
        "--ranks", type=protocol.positive, default=2, help="compared with 1 rank (default: 2)"
    )
    parser.add_argument(
        "--only-ours", action="store_true", help="time ours alone, on the ranks of a launch"
    )
    arguments = parser.parse_args(argv)
    if arguments.only_ours and not (arguments.tokenizer and arguments.data):
        parser.error("--only-ours needs --tokenizer and --data, which all ranks share")
    return arguments


if __name__ == "__main__":
    main()
