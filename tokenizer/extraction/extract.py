"""Images → shards of codes.

    semhitok extract-codes --tokenizer DIR --data DIR --out DIR
    torchrun --nproc_per_node 8 -m semhitok extract-codes --tokenizer DIR --data DIR --out DIR

    sbatch --array 0-7 ... semhitok extract-codes --tokenizer DIR --data s3://... --out s3://...

Each shard is a fixed range of records, encoded in batches that never cross its ends, and written
whole or not at all: a killed run resumes at the first missing shard, and any number of ranks, on
one node or on several that share the folder, ends with the same bytes. (On the same kind of machine
with the same batch size and threads, that is: another order of additions may turn the last bit of a
distance, and that a code. So may the fused layers of `model.fused`, which replace the model's own
on a CPU.)
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from data_pipelines.images import scale_pixels
from data_pipelines.loading.dataset import PreparedDataset
from data_pipelines.loading.image_dataset import PreparedImages
from runtime.errors import UserError
from runtime.memory import memory_errors
from runtime.progress import Progress
from runtime.rank_group import RankGroup
from runtime.ranks import rank_and_world
from runtime.run_folder import usable_cpus
from runtime.storage import Storage
from tokenizer.extraction.code_shards import CodesManifest, write_shard
from tokenizer.extraction.settings import ExtractCodesSettings
from tokenizer.extraction.shard_plan import ShardPlan
from tokenizer.model.fingerprint import code_fingerprint
from tokenizer.model.fused import with_fused_linears
from tokenizer.model.modeling_semhitok import SemHiTokModel
from tokenizer.saved.history import require_phase
from tokenizer.saved.model_folder import load_tokenizer

MAX_PIXELS = 2**23  # that a CPU encodes at once; 128 images of 256²
MAX_WORKERS = 8  # decoding threads that keep one GPU busy at 256²; ours, more only cost memory


def extract_codes(settings: ExtractCodesSettings) -> Path | str:
    """Encode every image of a prepared folder; records of text alone are passed over.

    Every rank of a `torchrun` launch calls this; they share the shards. An `out` that holds other
    codes is refused.

    Returns:
        The folder, or its URL.
    """
    task, num_tasks = (0, 1) if "RANK" in os.environ else rank_and_world()  # of a SLURM array
    with RankGroup() as ranks:
        device = _device(settings.device, ranks.local_rank)
        dataset = PreparedDataset(settings.data, images_only=True)
        if not len(dataset):
            raise UserError(f"{settings.data} holds no image; prepare some images first")
        model = load_tokenizer(settings.tokenizer, needs="encoder")
        # After the semantic phase alone, every pixel code would be noise.
        require_phase(model.config, "pixel", str(settings.tokenizer))
        model = model.to(device).eval()
        manifest = make_manifest(model, dataset, settings.num_crops)
        store = Storage(settings.out)
        plan = ShardPlan(store, manifest, settings.shard_size, dataset.ids)
        entries = ranks.from_main(plan.claim)
        _refuse_differing(ranks.gather(plan.identity()), ranks.rank)
        missing = [number for number in range(len(plan)) if number not in entries]
        mine = missing[ranks.rank :: ranks.world_size]
        if num_tasks > 1:  # which begin at different times, and so miss different shards
            mine = [number for number in missing if number % num_tasks == task]
        workers = settings.num_workers
        if workers is None:  # cores of a rank that its model leaves idle
            idle = (usable_cpus() or 1) // ranks.local_world_size
            workers = 0 if device.type == "cpu" else min(MAX_WORKERS, idle)
        several = f" (rank 0 of {ranks.world_size})" if ranks.world_size > 1 else ""
        rows = [plan.rows(number) for number in mine]
        total, batch_size = sum(map(len, rows)) * settings.num_crops, settings.batch_size
        with (
            memory_errors("lower --batch-size"),
            Progress(total, f"extract-codes{several}", unit="image") as progress,
        ):
            encoded = encode_shards(
                model, dataset, rows, settings.num_crops, batch_size, workers, progress
            )
            for number, (semantic, pixel) in zip(mine, encoded, strict=True):
                plan.refuse_other_claim()  # two that began at the same moment could both claim it
                name, ids = plan.name(number), plan.ids(number)
                entries[number] = write_shard(store, name, manifest, ids, semantic, pixel)
        if num_tasks > 1 and not task:
            entries |= plan.wait_for([number for number in missing if number not in mine])
        for others in ranks.gather(entries):
            entries |= others
        if ranks.rank == 0 and not task:
            plan.finish(entries)
    return settings.out if store.is_remote else store.path


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
        dataset, shards: the records, and which of them each shard holds.
        num_crops: C, of each record.
        batch_size: images per forward pass; on a CPU at most `MAX_PIXELS` in all.
        num_workers: processes that decode images; 0 decodes in this one.
        progress: counts images.

    Yields:
        For each shard of R records, semantic and pixel codes, each (R, C, N) int64.
    """
    _keep_freed_memory()
    model = with_fused_linears(model)
    if model.device.type == "cpu":
        batch_size = min(batch_size, max(1, MAX_PIXELS // model.config.image_size**2))
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
            images = next(loaded)["pixels"].flatten(0, 1)  # (records · C, H, W, 3)
            for part in images.split(batch_size):
                codes = model.encode(scale_pixels(part.to(model.device, non_blocking=True)))
                semantic.append(codes.semantic.cpu())
                pixel.append(codes.pixel.cpu())
            if progress is not None:
                progress.update(len(images))
        shape = (len(rows), num_crops, -1)
        yield torch.cat(semantic).view(shape).numpy(), torch.cat(pixel).view(shape).numpy()


def make_manifest(model: SemHiTokModel, dataset: PreparedDataset, num_crops: int) -> CodesManifest:
    """The manifest of an extraction, still without shards."""
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
        raise UserError(f"there is no device {name!r} here; give cpu, cuda or auto") from error


def _keep_freed_memory() -> None:
    """Make malloc keep the blocks that one batch frees and the next one asks for again.

    glibc returns them to the system, and gets them again page by page: an eighth of the time that
    batches of 32 images of 64² take on a CPU. One block just below its highest limit, freed once,
    moves the limit there (mallopt(3), M_MMAP_THRESHOLD). Other allocators ignore it.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


def _refuse_differing(identities: list[dict[str, Any]], rank: int) -> None:
    """Nodes with copies of their own could each bring another tokenizer."""
    differing = [key for key, value in identities[0].items() if identities[rank][key] != value]
    if differing:
        raise UserError(
            f"rank {rank} has another {differing[0].replace('_', ' ')} than rank 0; give every "
            f"node the same tokenizer, data and options"
        )
