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
from data_pipelines.loading.dataset import PreparedDataset
from data_pipelines.prepare.run import prepare
from data_pipelines.prepare.settings import PrepareSettings
from runtime.rank_group import RankGroup
from runtime.storage import Storage
from runtime.yaml_values import read_values, shipped_configs
from tokenizer.extraction.code_shards import write_shard
from tokenizer.extraction.extract import encode_shards, make_manifest
from tokenizer.model.configuration_semhitok import SemHiTokConfig
from tokenizer.model.modeling_semhitok import SemHiTokModel
from tokenizer.saved.model_folder import load_tokenizer, save_tokenizer

NUM_SHARDS = 8


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark, or one launch of it."""
    arguments = _parse(argv)
    protocol.start(arguments)
    if arguments.only_ours:
        _time_ranks(arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        tokenizer = arguments.tokenizer or _save_random_tokenizer(work / "tokenizer")
        settings = PrepareSettings(sources=["easy-vqa-test"], out=str(work / "data"))
        _compare(arguments, tokenizer, arguments.data or Path(prepare(settings)), work)


def _save_random_tokenizer(folder: Path) -> Path:
    """An untrained tokenizer of the quickstart's size: what weights hold costs no time."""
    configs = shipped_configs() / "quickstart"
    teacher = {"model_type": "siglip_vision_model", "vision_use_head": False}
    teacher |= read_values(configs / "teacher.yaml")["vision"]
    fields = read_values(configs / "semantic.yaml")["model"]
    save_tokenizer(SemHiTokModel(SemHiTokConfig(teacher_config=teacher, **fields)), folder)
    return folder


def _compare(arguments: argparse.Namespace, tokenizer: Path, data: Path, work: Path) -> None:
    model = load_tokenizer(tokenizer).to(arguments.device).eval()
    dataset = PreparedDataset(data, images_only=True)
    count = min(arguments.num_images or len(dataset), len(dataset))
    ways = {
        "one": lambda: one_by_one(model, dataset, count),
        "ours": lambda: ours(model, dataset, _shards(count), arguments, work / "codes"),
    }
    seconds = protocol.median_seconds(ways, arguments.repeats)
    speed = {name: count / value for name, value in seconds.items()}
    rows = [("one image at a time", speed["one"], 1.0)]
    rows += [(f"batches of {arguments.batch_size}", speed["ours"], speed["ours"] / speed["one"])]
    values = {
        "num_images": count,
        "image_size": model.config.image_size,
        "images_per_second": speed["ours"],
        "images_per_second_one_by_one": speed["one"],
    }
    if arguments.ranks > 1:
        launches: dict[str, list[float]] = {"single": [], "several": []}
        for _ in range(arguments.repeats):
            for name, ranks in (("single", 1), ("several", arguments.ranks)):
                launches[name].append(_launch(ranks, arguments, tokenizer, data, count))
        single, several = protocol.medians(launches).values()
        rows += [("1 rank, 1 thread", single, 1.0)]
        rows += [(f"{arguments.ranks} ranks, 1 thread each", several, several / single)]
        values |= {
            "ranks_ratio": several / single,
            "images_per_second_ranks": several,
            "images_per_second_one_rank": single,
        }
    columns = ("extraction", "images/s", "ratio")
    protocol.print_table([dict(zip(columns, row, strict=True)) for row in rows])
    protocol.print_result("extract", speed["ours"] / speed["one"], arguments, **values)


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


def _time_ranks(arguments: argparse.Namespace) -> None:
    """On every rank of a launch: this rank's share of the shards, after one untimed round."""
    with RankGroup() as ranks, tempfile.TemporaryDirectory() as folder:
        where = f"cuda:{ranks.local_rank}" if arguments.device != "cpu" else "cpu"
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
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", str(ranks), "-m", "benchmarks.extract", "--only-ours"]
    command += [f"--tokenizer={tokenizer.absolute()}", f"--data={data.absolute()}"]
    command += [f"--num-images={count}", f"--batch-size={arguments.batch_size}"]
    command += [f"--num-workers={arguments.num_workers}", f"--device={arguments.device}"]
    root = str(Path(__file__).parents[1])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    finished = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True, check=True, cwd=root
    )
    return json.loads(finished.stdout.splitlines()[-1])["images_per_second"]


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    example = "python -m benchmarks.extract --tokenizer runs/quickstart/decoder/model "
    parser = protocol.make_parser(__doc__, f"{example}--data runs/quickstart/data/test")
    add = parser.add_argument
    add("--tokenizer", type=Path, metavar="DIR", help="a trained one")
    add("--data", type=Path, metavar="DIR", help="prepared data")
    add("--num-images", type=protocol.positive, metavar="N", help="to encode (default: all)")
    add("--batch-size", type=protocol.positive, default=32, help="images at once (default: 32)")
    add("--num-workers", type=int, default=0, help="processes that decode images (default: 0)")
    add("--ranks", type=protocol.positive, default=2, help="compared with 1 rank (default: 2)")
    add("--only-ours", action="store_true", help="time ours alone, on the ranks of a launch")
    arguments = parser.parse_args(argv)
    if arguments.only_ours and not (arguments.tokenizer and arguments.data):
        parser.error("--only-ours needs --tokenizer and --data, which all ranks share")
    return arguments


if __name__ == "__main__":
    main()
