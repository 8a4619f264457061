"""Images → shards of codes.

    semhitok extract-codes --tokenizer DIR --data DIR --out DIR
    torchrun --nproc_per_node 8 -m semhitok extract-codes --tokenizer DIR --data DIR --out DIR

    sbatch --array 0-7 ... semhitok extract-codes --tokenizer DIR --data s3://... --out s3://...

Each shard is a fixed range of records, encoded in batches that never cross its ends, and written
whole or not at all: a killed run goes on at the first missing shard, and any number of ranks, on
one node or on several that share the folder, ends with the same bytes. (On the same kind of machine
with the same batch size and threads, that is: another order of additions may turn the last bit of a
distance, and that a code. So may the fused layers of `model.fused`, which a CPU computes with
in place of the model's own.)
"""

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader

from data_pipelines.images import scale_pixels
from data_pipelines.loading.dataset import PreparedDataset
from data_pipelines.loading.image_dataset import PreparedImages
from runtime.errors import UserError
from runtime.progress import Progress
from runtime.rank_group import RankGroup
from runtime.ranks import rank_and_world
from runtime.run_folder import make_folder, read_json, usable_cpus, write_json
from runtime.storage import Storage, is_remote, mirror
from tokenizer.extraction.code_shards import CodesManifest, is_whole, shard_entry, write_shard
from tokenizer.model.fingerprint import code_fingerprint
from tokenizer.model.fused import with_fused_linears
from tokenizer.model.modeling_semhitok import SemHiTokModel
from tokenizer.saved.history import require_phase
from tokenizer.saved.model_folder import load_tokenizer

Place = TypeVar("Place", Path, str)
POLL_SECONDS = 0.5  # how often the first task of a SLURM array looks for the others' shards
MAX_WORKERS = 8  # decoding threads that keep one GPU busy at 256²; ours, more only cost memory


def extract_codes(
    tokenizer: Path | str,
    data: Path | str,
    out: Place,
    batch_size: int = 32,
    shard_size: int = 2000,
    device: str = "auto",
    num_crops: int = 1,
    num_workers: int | None = None,
) -> Place:
    """Encode every image of a prepared folder; records of text alone are passed over.

    Every rank of a `torchrun` launch calls this; they share the shards.

    Args:
        tokenizer: folder of a tokenizer.
        data: prepared folder.
        out: folder for shards and manifest, one that all nodes share, or the URL of one.
        batch_size: images per forward pass.
        shard_size: records per shard.
        device: "auto", "cpu", "cuda", ...
        num_crops: crops of each image, see `numbered_crop`; the first is the centre.
        num_workers: processes that decode images, of each rank; by default none where the model
            itself needs the cores, else as many as there are, up to `MAX_WORKERS`.

    Returns:
        `out`.

    Raises:
        UserError: if an argument cannot be used, or `out` holds other codes.
    """
    store = Storage(out)
    folder = mirror(out)  # the folder itself, if it is on disk
    task, num_tasks = (0, 1) if "RANK" in os.environ else rank_and_world()  # of a SLURM array
    with RankGroup() as ranks:
        where = _device(device, ranks.local_rank)
        dataset = PreparedDataset(data, images_only=True)
        if not len(dataset):
            raise UserError(f"{data} holds no image: prepare some images first.")
        model = load_tokenizer(tokenizer, needs="encoder")
        # After the semantic phase alone, every pixel code would be noise.
        require_phase(model.config, "pixel", str(tokenizer))
        model = model.to(where).eval()
        manifest = make_manifest(model, dataset, num_crops)
        shards = _Shards(folder, manifest, shard_size, store)
        missing, entries = ranks.from_main(lambda: shards.find(dataset))
        _refuse_differing(ranks.gather(shards.identity()), ranks.rank)
        mine = missing[ranks.rank :: ranks.world_size]
        if num_tasks > 1:  # which begin at different times, and so miss different shards
            mine = [number for number in missing if number % num_tasks == task]
        if num_workers is None:
            num_workers = _free_cores(where, ranks.local_world_size)
        total = sum(len(shards.rows(number)) for number in mine) * num_crops
        with Progress(total, _label(ranks), unit="image") as progress:
            encoded = encode_shards(
                model,
                dataset,
                [shards.rows(number) for number in mine],
                num_crops,
                batch_size,
                num_workers,
                progress,
            )
            for number, (semantic, pixel) in zip(mine, encoded, strict=True):
                rows = shards.rows(number)
                ids = dataset.ids[rows.start : rows.stop]
                entries[number] = write_shard(shards.path(number), manifest, ids, semantic, pixel)
                shards.publish(shards.path(number).name)
        if task:
            return out
        entries |= shards.wait_for([n for n in missing if n not in mine], dataset, num_tasks)
        for others in ranks.gather(entries):
            entries |= others
        if ranks.rank == 0:
            manifest.shards.extend(entries[number] for number in sorted(entries))
            for left in folder.glob("*.tmp"):  # of a killed run; all that is listed is whole
                left.unlink(missing_ok=True)
            write_json(folder / "manifest.json", manifest.to_dict())
            shards.publish("manifest.json")
    return out


@torch.inference_mode()
def encode_shards(
    model: SemHiTokModel,
    dataset: PreparedDataset,
    shards: Sequence[range],
    num_crops: int,
    batch_size: int,
    num_workers: int,
    progress: Progress | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Encode ranges of records.

    Args:
        model: on its device, in eval mode.
        dataset: the records.
        shards: rows of each shard.
        num_crops: C, of each record.
        batch_size: images per forward pass.
        num_workers: processes that decode images; 0 decodes in this one.
        progress: counts images.

    Yields:
        For each shard of R records, semantic and pixel codes, each (R, C, N) int64.
    """
    _keep_freed_memory()
    model = with_fused_linears(model)
    num_records = max(1, batch_size // num_crops)
    batches = [
        rows[start : start + num_records]
        for rows in shards
        for start in range(0, len(rows), num_records)
    ]
    loader = DataLoader(
        PreparedImages(dataset, model.config.image_size, num_crops),
        batch_sampler=batches,  # type: ignore[arg-type]  # ranges are as good as lists
        num_workers=num_workers,
        pin_memory=model.device.type == "cuda",
    )
    loaded = iter(loader)
    for rows in shards:
        semantic, pixel = [], []
        for _ in range(0, len(rows), num_records):
            images = next(loaded)["pixels"]  # (records, C, H, W, 3)
            images = images.to(model.device, non_blocking=True)
            codes = model.encode(scale_pixels(images.flatten(0, 1)))
            semantic.append(codes.semantic.cpu().unflatten(0, images.shape[:2]))
            pixel.append(codes.pixel.cpu().unflatten(0, images.shape[:2]))
            if progress is not None:
                progress.update(images.shape[0] * num_crops)
        yield torch.cat(semantic).numpy(), torch.cat(pixel).numpy()


class _Shards:
    """The shards of one extraction in their folder: who they are, where, and which are there.

    Args:
        out: the folder.
        manifest: of the extraction, still without shards.
        shard_size: records per shard.
        store: the folder that is asked for, of which `out` is a mirror where it is not on disk.
    """

    def __init__(self, out: Path, manifest: CodesManifest, shard_size: int, store: Storage):
        self.out = out
        self.store = store
        self.manifest = manifest
        self.shard_size = shard_size

    def path(self, number: int) -> Path:
        return self.out / f"codes-{number:05d}.arrow"

    def rows(self, number: int) -> range:
        """Records of a shard."""
        start = number * self.shard_size
        return range(start, min(start + self.shard_size, self.manifest.num_records))

    def identity(self) -> dict:
        """What must agree for shards to be of one extraction."""
        return {
            "format_version": self.manifest.schema_version,
            "tokenizer_fingerprint": self.manifest.tokenizer_fingerprint,
            "data_fingerprint": self.manifest.data_fingerprint,
            "shard_size": self.shard_size,
            "number_of_crops": self.manifest.num_crops,
        }

    def find(self, dataset: PreparedDataset) -> tuple[list[int], dict[int, dict]]:
        """Claim the folder; return the shards still to be made, and the entries of those there."""
        make_folder(self.out)
        self._fetch()
        self._refuse_other_codes()
        self.publish("extraction.json")
        all_ids = dataset.ids
        missing, entries = [], {}
        for number in range(-(-self.manifest.num_records // self.shard_size)):
            path, rows = self.path(number), self.rows(number)
            ids = all_ids[rows.start : rows.stop]
            if path.is_file() and is_whole(path, self.manifest, ids):
                entries[number] = shard_entry(path, len(ids) * self.manifest.num_crops)
            else:
                missing.append(number)
        return missing, entries

    def publish(self, name: str) -> None:
        """Put a file where it was asked for, if that is an object store."""
        if is_remote(self.store.location):
            Storage(self.out).copy(name, self.store, name)

    def _fetch(self) -> None:
        """Get what an earlier run, or another rank, has put into the object store."""
        if not is_remote(self.store.location):
            return
        for name in self.store.names():
            if self.store.size(name) != Storage(self.out).size(name):
                self.store.copy(name, Storage(self.out), name)

    def wait_for(
        self, numbers: list[int], dataset: PreparedDataset, num_tasks: int
    ) -> dict[int, dict]:
        """Entries of the shards that other tasks of a SLURM array make; nothing under torchrun."""
        entries: dict[int, dict] = {}
        while num_tasks > 1 and len(entries) < len(numbers):
            self._fetch()
            for number in numbers:
                path, rows = self.path(number), self.rows(number)
                ids = dataset.ids[rows.start : rows.stop]
                if number not in entries and path.is_file() and is_whole(path, self.manifest, ids):
                    entries[number] = shard_entry(path, len(ids) * self.manifest.num_crops)
            if len(entries) < len(numbers):
                time.sleep(POLL_SECONDS)
        return entries

    def _refuse_other_codes(self) -> None:
        """Shards of another tokenizer, data set or format must not be taken for ours."""
        path, mine = self.out / "extraction.json", self.identity()
        if path.is_file():
            theirs = read_json(path)
            changed = [key.replace("_", " ") for key in mine if theirs.get(key) != mine[key]]
            if changed:
                raise UserError(
                    f"{self.out} holds codes of another {' and '.join(changed)}: give another "
                    f"--out, or delete that folder."
                )
        elif any(self.out.glob("codes-*")):
            raise UserError(f"{self.out} holds shards of unknown origin: give another --out.")
        else:
            write_json(path, mine)


def make_manifest(model: SemHiTokModel, dataset: PreparedDataset, num_crops: int) -> CodesManifest:
    config = model.config
    return CodesManifest(
        tokenizer_fingerprint=code_fingerprint(model),
        data_fingerprint=dataset.fingerprint,
        num_records=len(dataset),
        num_crops=num_crops,
        num_image_positions=config.num_image_positions,
        num_semantic_codes=config.num_semantic_codes,
        num_pixel_codes=config.num_pixel_codes,
        shards=[],
    )


def _device(name: str, local_rank: int) -> torch.device:
    """The device of a name, if this machine has it; each rank of a node takes a GPU of its own."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{local_rank}"
    try:
        return torch.empty(0, device=name).device
    except (AssertionError, RuntimeError) as error:  # torch built without CUDA asserts
        raise UserError(f"There is no device {name!r} here: give cpu, cuda or auto.") from error


def _keep_freed_memory() -> None:
    """Make malloc keep the blocks that one batch frees and the next one asks for again.

    glibc gives them back to the system, and gets them anew page by page: an eighth of the time that
    batches of 32 images of 64² take on a CPU. One block just below its highest limit, freed once,
    moves the limit there (mallopt(3), M_MMAP_THRESHOLD). Other allocators don't mind.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


def _free_cores(device: torch.device, local_world_size: int) -> int:
    """Cores of a rank that its model leaves idle."""
    if device.type == "cpu":
        return 0
    return min(MAX_WORKERS, (usable_cpus() or 1) // local_world_size)


def _refuse_differing(identities: list[dict], rank: int) -> None:
    """Nodes with copies of their own could each bring another tokenizer."""
    differing = [key for key, value in identities[0].items() if identities[rank][key] != value]
    if differing:
        raise UserError(
            f"Rank {rank} has another {differing[0].replace('_', ' ')} than rank 0: give every "
            f"node the same tokenizer, data and options."
        )


def _label(ranks: RankGroup) -> str:
    several = f" (rank 0 of {ranks.world_size})" if ranks.world_size > 1 else ""
    return f"extract-codes{several}"


def command(args: argparse.Namespace) -> Path | str:
    """`semhitok extract-codes`."""
    return extract_codes(
        args.tokenizer,
        args.data,
        args.out,
        args.batch_size,
        args.shard_size,
        args.device,
        args.num_crops,
        args.num_workers,
    )
