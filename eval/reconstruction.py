r"""Reconstruction by a saved image tokenizer: PSNR, SSIM and how much of the codebooks is used.

Example:
    semhitok eval reconstruction --tokenizer runs/quickstart/decoder/model \
        --data runs/quickstart/data/test --out runs/reconstruction

Shapes: B batch, N image positions, K semantic codes, M pixel codes per semantic code, H·W pixels.
"""

import json
import math
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenizer.codebook_usage import codebook_statistics
from tokenizer.image_quality import MAX_PSNR, image_psnr, image_ssim, to_levels

NUM_SHOWN = 12


def pooled_psnr(image_psnrs: Sequence[float]) -> float:
    """PSNR in dB of the squared error averaged over all images.

    The other convention beside the mean of the images' own PSNRs, and never above it: easy images
    cannot make up for hard ones. On easy-VQA's test split the mean image has 14.2 dB by this rule
    and 15.4 dB by the other, so a number means little without its rule.

    Args:
        image_psnrs: the PSNR of each image, in dB, all of one size.
    """
    mean_error = np.mean(10.0 ** (-np.asarray(image_psnrs) / 10))  # in units of the range squared
    return float(-10 * np.log10(mean_error))


@dataclass(frozen=True)
class ReconstructionSettings:
    """What an evaluation was run with; saved beside its results."""

    tokenizer: str
    """Folder of the image tokenizer."""
    data: str
    """Folder of the prepared data set."""
    batch_size: int
    """Images at a time."""


def evaluate(
    tokenizer_dir: Path | str,
    data_dir: Path | str,
    out_dir: Path | str,
    batch_size: int = 64,
) -> dict[str, Any]:
    """Encode and decode every image of a data set, measure and save.

    Writes `summary.json`, `per_image.jsonl`, pairs of images under `pairs/`, and `codes.npz` with
    the code maps of those pairs (`semantic`, `pixel`: (B, h, w)) and the counts of every code over
    the whole set (`semantic_counts` (K,), `pixel_counts` (K, M)).

    Args:
        tokenizer_dir: a saved SemHiTok model.
        data_dir: a prepared data set.
        out_dir: where the results go; made if missing.
        batch_size: images at a time; results do not depend on it.

    Returns:
        What `summary.json` holds.

    Raises:
        UserError: if the data set is empty, or a path holds no model or data set.
    """
    from data_pipelines.dataset import PreparedDataset
    from semhitok.errors import UserError
    from semhitok.run import write_json, write_text
    from tokenizer.model_folder import load_tokenizer

    out_dir = Path(out_dir)
    dataset = PreparedDataset(data_dir, images_only=True)
    if not len(dataset):
        raise UserError(f"{data_dir} has no images, so there is nothing to reconstruct.")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_tokenizer(tokenizer_dir).to(device).eval()

    per_image, counts, maps = _measure(model, dataset, batch_size, out_dir / "pairs")
    psnr, ssim, mean_image_psnr = (
        [row[name] for row in per_image] for name in ("psnr", "ssim", "mean_image_psnr")
    )
    summary = {
        "task": "reconstruction",
        "num_images": len(dataset),
        "resolution": model.config.image_size,
        "crop": "shorter side scaled to the resolution (bicubic), then the central square",
        "psnr": float(np.mean(psnr)),
        "psnr_std": float(np.std(psnr)),
        "psnr_pooled": pooled_psnr(psnr),
        "ssim": float(np.mean(ssim)),
        "ssim_std": float(np.std(ssim)),
        "mean_image_psnr": float(np.mean(mean_image_psnr)),
        "mean_image_psnr_pooled": pooled_psnr(mean_image_psnr),
        "psnr_rule": "mean over images of each image's PSNR, 8-bit RGB levels, range 255, "
        f"identical images count as {MAX_PSNR:g} dB; pooled: of the squared error averaged over "
        "all images first",
        "ssim_rule": "mean over images, RGB, Gaussian window 11, sigma 1.5, range 255",
        "decoder": "Enhance Decoder" if model.config.use_enhance_decoder else "pixel decoder",
        "codebook": codebook_statistics(counts),
        "tokenizer": str(tokenizer_dir),
        "data": str(data_dir),
        "data_fingerprint": dataset.fingerprint,
    }
    np.savez_compressed(
        out_dir / "codes.npz",
        semantic=np.stack(maps["semantic"]),
        pixel=np.stack(maps["pixel"]),
        semantic_counts=counts.sum(axis=1),
        pixel_counts=counts,
    )
    write_text(out_dir / "per_image.jsonl", "".join(json.dumps(row) + "\n" for row in per_image))
    write_json(out_dir / "summary.json", summary)  # last: its presence says the rest is complete
    return summary


def command(args: Namespace) -> Path:
    """Run `semhitok eval reconstruction`; returns the folder that was written."""
    from semhitok.run import RunDirectory

    settings = ReconstructionSettings(str(args.tokenizer), str(args.data), args.batch_size)
    RunDirectory(args.out).start(settings, "semhitok eval reconstruction")
    summary = evaluate(settings.tokenizer, settings.data, args.out, settings.batch_size)
    print(
        f"PSNR {summary['psnr']:.2f} dB, SSIM {summary['ssim']:.3f} over {summary['num_images']:,} "
        f"images at {summary['resolution']}²; the mean image gives "
        f"{summary['mean_image_psnr']:.2f} dB"
    )
    return Path(args.out)


@torch.inference_mode()
def _measure(
    model: Any, dataset: Any, batch_size: int, pairs_dir: Path
) -> tuple[list[dict[str, Any]], np.ndarray, dict[str, list[np.ndarray]]]:
    """Scores of each image, counts (K, M) of every code, and the (h, w) code maps of the pairs."""
    from semhitok.progress import Progress
    from semhitok.run import make_folder

    size = model.config.image_size
    num_semantic, num_pixel = model.config.num_semantic_codes, model.config.num_pixel_codes
    device = next(model.parameters()).device
    mean_image = _mean_image(dataset, size, batch_size)
    shown = set(np.linspace(0, len(dataset) - 1, min(NUM_SHOWN, len(dataset))).astype(int))
    make_folder(pairs_dir)

    counts = torch.zeros(num_semantic * num_pixel, dtype=torch.int64)
    per_image: list[dict[str, Any]] = []
    maps: dict[str, list[np.ndarray]] = {"semantic": [], "pixel": []}
    with Progress(len(dataset), "reconstruct", "image") as progress:
        for start, images in _batches(dataset, size, batch_size):
            codes = model.encode(images.to(device))
            rebuilt = model.decode(codes).float().cpu()
            levels, target = to_levels(rebuilt), to_levels(images)
            semantic, pixel = codes.semantic.cpu(), codes.pixel.cpu()
            flat = (semantic * num_pixel + pixel).flatten()
            counts += torch.bincount(flat, minlength=len(counts))

            scores = {
                "psnr": image_psnr(levels, target).tolist(),
                "ssim": image_ssim(levels, target).tolist(),
                "mean_image_psnr": image_psnr(mean_image.expand_as(target), target).tolist(),
            }
            for i in range(len(images)):
                row = {"record_id": dataset[start + i].record_id}
                row.update({name: values[i] for name, values in scores.items()})
                if start + i in shown:
                    row["pair"] = len(maps["semantic"])
                    _save_pair(images[i], rebuilt[i], pairs_dir, row["pair"])
                    maps["semantic"].append(_as_grid(semantic[i]))
                    maps["pixel"].append(_as_grid(pixel[i]))
                per_image.append(row)
            progress.update(len(images))
    return per_image, counts.view(num_semantic, num_pixel).numpy(), maps


def _batches(dataset: Any, size: int, batch_size: int) -> Iterator[tuple[int, Tensor]]:
    """Index of the first image, and (B, 3, size, size) in [-1, 1]."""
    for start in range(0, len(dataset), batch_size):
        stop = min(start + batch_size, len(dataset))
        yield start, torch.stack([dataset.image_tensor(i, size) for i in range(start, stop)])


def _mean_image(dataset: Any, size: int, batch_size: int) -> Tensor:
    """(3, size, size) levels in [0, 255]: the best that a model blind to its input could draw."""
    total = torch.zeros(3, size, size, dtype=torch.float64)
    for _, images in _batches(dataset, size, batch_size):
        total += to_levels(images).double().sum(dim=0)
    return (total / len(dataset)).round().float()


def _as_grid(codes: Tensor) -> np.ndarray:
    """(N,) row-major codes of a square image → (h, w)."""
    side = math.isqrt(codes.numel())
    return codes.view(side, side).numpy()


def _save_pair(image: Tensor, rebuilt: Tensor, folder: Path, index: int) -> None:
    """Save (3, H, W) tensors in [-1, 1] as `NN_real.png` and `NN_reconstruction.png`."""
    from data_pipelines.images import to_pil

    to_pil(image).save(folder / f"{index:02d}_real.png")
    to_pil(rebuilt).save(folder / f"{index:02d}_reconstruction.png")
