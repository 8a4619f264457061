"""Images → shards of codes.

    semhitok extract-codes --tokenizer DIR --data DIR --out DIR

Each shard is a fixed range of records, written whole or not at all, so a killed run goes on at the
first missing shard and ends with the same bytes.
"""

import argparse
import os
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Subset

from data_pipelines.dataset import PreparedDataset
from data_pipelines.image_dataset import ImageTensors
from semhitok.errors import UserError
from semhitok.progress import Progress
from semhitok.run import file_sha256, read_json, write_json
from tokenizer.code_shards import CodesManifest, write_shard
from tokenizer.fingerprint import code_fingerprint
from tokenizer.model_folder import load_tokenizer
from tokenizer.modeling_semhitok import SemHiTokModel


def extract_codes(
    tokenizer: Path | str,
    data: Path | str,
    out: Path | str,
    batch_size: int = 64,
    shard_size: int = 10_000,
    device: str = "auto",
) -> Path:
    """Encode every image of a prepared folder.

    Args:
        tokenizer: folder of a tokenizer.
        data: prepared folder.
        out: folder for shards and manifest.
        batch_size: images per forward pass.
        shard_size: records per shard.
        device: "auto", "cpu", "cuda", ...
    """
    out = Path(out)
    where = _device(device)
    model = load_tokenizer(tokenizer).to(where).eval()
    dataset = PreparedDataset(data)
    config = model.config
    fingerprint = code_fingerprint(model)
    starts = range(0, len(dataset), shard_size)
    manifest = CodesManifest(
        tokenizer_fingerprint=fingerprint,
        data_fingerprint=dataset.fingerprint,
        num_records=len(dataset),
        num_image_positions=config.num_image_positions,
        num_semantic_codes=config.num_semantic_codes,
        num_pixel_codes=config.num_pixel_codes,
        shards=[],
    )
    out.mkdir(parents=True, exist_ok=True)
    _refuse_other_codes(out, manifest, shard_size)
    shards = []
    with Progress(len(dataset), "extract-codes", unit="image") as progress:
        for number, start in enumerate(starts):
            path = out / f"codes-{number:05d}.parquet"
            rows = range(start, min(start + shard_size, len(dataset)))
            if not path.is_file():
                semantic, pixel = _encode(model, dataset, rows, batch_size, progress)
                temporary = path.with_suffix(".tmp")
                ids = [dataset.ids[row] for row in rows]
                write_shard(temporary, manifest, ids, semantic, pixel)
                os.replace(temporary, path)
            else:
                progress.update(len(rows))
            shards.append({"file": path.name, "rows": len(rows), "sha256": file_sha256(path)})
    manifest = CodesManifest(**{**manifest.__dict__, "shards": shards})
    write_json(out / "manifest.json", manifest.to_dict())
    return out


def _device(name: str) -> torch.device:
    """The device of a name, if this machine has it."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (AssertionError, RuntimeError) as error:  # torch built without CUDA asserts
        raise UserError(f"There is no device {name!r} here: give cpu, cuda or auto.") from error


@torch.no_grad()
def _encode(
    model: SemHiTokModel, dataset: PreparedDataset, rows: range, batch_size: int, progress: Progress
) -> tuple[np.ndarray, np.ndarray]:
    images = Subset(ImageTensors(dataset, model.config.image_size), list(rows))
    semantic, pixel = [], []
    for batch in DataLoader(images, batch_size=batch_size):
        codes = model.encode(batch["images"].to(model.device))
        semantic.append(codes.semantic.cpu().numpy())
        pixel.append(codes.pixel.cpu().numpy())
        progress.update(len(codes.semantic))
    return np.concatenate(semantic), np.concatenate(pixel)


def _refuse_other_codes(out: Path, manifest: CodesManifest, shard_size: int) -> None:
    """Shards of another tokenizer, data set or shard size must not be taken for ours."""
    mine = {
        "tokenizer_fingerprint": manifest.tokenizer_fingerprint,
        "data_fingerprint": manifest.data_fingerprint,
        "shard_size": shard_size,
    }
    path = out / "extraction.json"
    if path.is_file():
        theirs = read_json(path)
        changed = [key.replace("_", " ") for key in mine if theirs.get(key) != mine[key]]
        if changed:
            raise UserError(
                f"{out} holds codes of another {' and '.join(changed)}: give another --out, or "
                f"delete that folder."
            )
    elif any(out.glob("codes-*.parquet")):
        raise UserError(f"{out} holds shards of unknown origin: give another --out.")
    write_json(path, mine)


def command(args: argparse.Namespace) -> Path:
    """`semhitok extract-codes`."""
    return extract_codes(
        args.tokenizer, args.data, args.out, args.batch_size, args.shard_size, args.device
    )
