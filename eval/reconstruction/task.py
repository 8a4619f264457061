r"""Reconstruction by a saved image tokenizer: scores of images and sets, and use of the codebooks.

Example:
    semhitok eval reconstruction --tokenizer runs/quickstart/decoder/model \
        --data runs/quickstart/data/test --out runs/reconstruction

Shapes: B batch, N image positions, K semantic codes, M pixel codes per semantic code, H·W pixels.
"""

import bisect
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_pipelines.images import to_pil, write_png
from eval.measures.feature_networks import load_feature_network
from eval.measures.image_scores import MS_SSIM_MIN_SIZE, image_scores, mean_scores
from eval.measures.image_source import CROPS, EvaluationImages, images_at_once
from eval.measures.set_distance import SetDistances
from eval.reconstruction.report import report_reconstruction
from eval.reconstruction.settings import ReconstructionSettings
from eval.reports.page import write_report
from mllm.saved.fingerprint import model_fingerprint
from runtime.errors import UserError
from runtime.files import write_bytes, write_json
from runtime.json_lines import write_rows
from runtime.progress import Progress
from runtime.rank_group import RankGroup
from runtime.ranks import is_main_rank
from runtime.resume import holds_output
from runtime.run_folder import code_commit, make_folder, start_run
from tokenizer.codebooks.usage import codebook_statistics
from tokenizer.losses.image_quality import MAX_PSNR, image_psnr, to_levels
from tokenizer.losses.perceptual import PerceptualDistance, load_distance
from tokenizer.saved.model_folder import load_tokenizer

NUM_SHOWN = 12
NUM_WORST = 6
MAX_POSITIONS = 16_384
"""Of an image: 64 times the usual 256. The work of attention grows with their square."""


@holds_output
def evaluate(settings: ReconstructionSettings) -> Path:
    """Encode and decode every image of a data set, measure, save; under torchrun on all ranks.

    Writes `summary.json`, `per_image.jsonl`, pairs of images under `pairs/`, and `codes.npz` with
    the code maps of those pairs (`semantic`, `pixel`: (B, h, w)) and the counts of every code over
    the whole set (`semantic_counts` (K,), `pixel_counts` (K, M)); and the report. Returns the
    folder.

    Raises:
        UserError: if there are no images, fewer than a distance needs, an image is damaged, a
            network cannot be loaded, or a path holds no model.
    """
    images = EvaluationImages(settings.data, settings.crop, settings.max_images)
    networks = [load_feature_network(name) for name in settings.network]
    distances = SetDistances(networks, settings.distance)
    distances.require({str(settings.data): len(images)})
    perceptual = load_distance(settings.perceptual) if settings.perceptual else None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_tokenizer(settings.tokenizer).to(device).eval()
    size = _resolution(settings, model)
    start_run(settings.out, settings, "semhitok eval reconstruction")
    with RankGroup() as ranks:
        rows, counts, maps = _measure(settings, model, images, size, distances, perceptual, ranks)
        set_scores = distances.scores(ranks)
        fingerprint = ranks.from_main(lambda: model_fingerprint(settings.tokenizer))
    if is_main_rank():
        codes = io.BytesIO()
        np.savez_compressed(
            codes,
            semantic=maps[:, 0],
            pixel=maps[:, 1],
            semantic_counts=counts.sum(axis=1),
            pixel_counts=counts,
        )
        write_bytes(settings.out / "codes.npz", codes.getvalue())
        write_rows(settings.out / "per_image.jsonl", rows)
        summary = _summary(settings, images, model, size, rows, counts, set_scores)
        summary["checkpoint_fingerprint"] = fingerprint
        write_json(settings.out / "summary.json", summary)  # last: now the rest is complete
        scores = ", ".join(f"{name} {s['value']:.4g}" for name, s in summary["scores"].items())
        print(
            f"{scores}; {len(images):,} images at {size}²; the mean image gives "
            f"{summary['mean_image_psnr']:.2f} dB"
        )
        write_report(report_reconstruction(settings.out), settings.out)
    return settings.out


def pooled_psnr(image_psnrs: Sequence[float]) -> float:
    """PSNR in dB of the squared error averaged over all images, which have one size.

    The other convention beside the mean of the images' own PSNRs, and never above it: easy images
    cannot make up for hard ones. On easy-VQA's test split the mean image has 14.2 dB by this rule
    and 15.4 dB by the other, so a number means little without its rule.
    """
    mean_error = np.mean(10.0 ** (-np.asarray(image_psnrs) / 10))  # in units of the range squared
    return float(-10 * np.log10(mean_error))


def _resolution(settings: ReconstructionSettings, model: Any) -> int:
    size = settings.resolution or model.config.image_size
    patch = getattr(model.config, "patch_size", 1)
    if size % patch:
        near = max(1, round(size / patch)) * patch
        raise UserError(
            f"The resolution {size} is not divisible by the tokenizer's patches of {patch} "
            f"pixels: take {near}."
        )
    if (size // patch) ** 2 > MAX_POSITIONS:
        raise UserError(
            f"The resolution {size} makes {(size // patch) ** 2:,} positions of an image: take at "
            f"most {math.isqrt(MAX_POSITIONS) * patch}."
        )
    return int(size)


@torch.inference_mode()
def _measure(
    settings: ReconstructionSettings,
    model: Any,
    images: EvaluationImages,
    size: int,
    distances: SetDistances,
    perceptual: PerceptualDistance | None,
    ranks: RankGroup,
) -> tuple[list[dict[str, Any]], np.ndarray, np.ndarray]:
    """One pass over this rank's images; what all ranks found: the scores of each image, (K, M)
    counts of the codes, and (B, 2, h, w) semantic and pixel codes of the shown pairs."""
    num_semantic, num_pixel = model.config.num_semantic_codes, model.config.num_pixel_codes
    device = next(model.parameters()).device
    mean_image = _mean_image(images, size, settings.batch_size, ranks)
    shown = np.linspace(0, len(images) - 1, min(NUM_SHOWN, len(images))).astype(int).tolist()
    folder = make_folder(settings.out / "pairs")

    counts = torch.zeros(num_semantic * num_pixel, dtype=torch.int64)
    rows: list[dict[str, Any]] = []
    maps: dict[int, np.ndarray] = {}
    worst = WorstPairs(NUM_WORST)
    mine = range(ranks.rank, len(images), ranks.world_size)
    with Progress(len(mine), "reconstruct", "image") as progress:
        for chosen, batch in _batches(images, size, settings.batch_size, mine):
            codes = model.encode(batch.to(device))
            rebuilt = model.decode(codes).float().cpu()
            if not rebuilt.isfinite().all():
                bad = chosen[int((~rebuilt.isfinite()).flatten(1).any(1).nonzero()[0, 0])]
                raise UserError(
                    f"The reconstruction of {images.record_id(bad)} holds values that are not "
                    f"finite: {settings.tokenizer} is damaged, or its training diverged."
                )
            semantic, pixel = codes.semantic.cpu(), codes.pixel.cpu()
            flat = (semantic * num_pixel + pixel).flatten()
            counts += torch.bincount(flat, minlength=len(counts))
            distances.add(batch, rebuilt)
            target = to_levels(batch)
            scores = image_scores(batch, rebuilt, perceptual)
            scores["mean_image_psnr"] = image_psnr(mean_image.expand_as(target), target).tolist()
            for i, index in enumerate(chosen):
                row: dict[str, Any] = {"record_id": images.record_id(index)}
                row |= {name: values[i] for name, values in scores.items()}
                if index in shown:
                    pair = row["pair"] = shown.index(index)
                    save_pair(batch[i], rebuilt[i], folder, f"{pair:02d}")
                    side = math.isqrt(semantic.shape[1])
                    maps[pair] = torch.stack([semantic[i], pixel[i]]).view(2, side, side).numpy()
                else:
                    worst.offer(index, row["psnr"], batch[i], rebuilt[i])
                rows.append(row)
            progress.update(len(batch))
    parts = ranks.gather((rows, counts, maps))
    all_rows: list[dict[str, Any]] = [{}] * len(images)
    for rank, (its_rows, _, _) in enumerate(parts):
        all_rows[rank :: ranks.world_size] = its_rows
    worst.save(all_rows, folder)
    ranks.gather(None)  # nobody reports before everybody has saved
    all_maps = {pair: found for _, _, part in parts for pair, found in part.items()}
    total = sum(part[1] for part in parts).view(num_semantic, num_pixel).numpy()
    return all_rows, total, np.stack([all_maps[pair] for pair in sorted(all_maps)])


def _summary(
    settings: ReconstructionSettings,
    images: EvaluationImages,
    model: Any,
    size: int,
    rows: Sequence[Mapping[str, Any]],
    counts: np.ndarray,
    set_scores: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    names = ("psnr", "ssim", "mean_image_psnr")
    psnr, ssim, mean_image_psnr = ([row[name] for row in rows] for name in names)
    # Only the published LPIPS is called so.
    is_lpips = settings.perceptual == "lpips-vgg"
    name = "LPIPS (VGG-16)" if is_lpips else f"perceptual distance ({settings.perceptual})"
    return {
        "task": "reconstruction",
        "num_images": len(images),
        "resolution": size,
        "crop": CROPS[images.crop].about,
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
        "scores": mean_scores(rows, name) | set_scores,
        "ms_ssim_absent": None
        if size >= MS_SSIM_MIN_SIZE
        else f"five scales need at least {MS_SSIM_MIN_SIZE} pixels",
        "feature_networks": [found.get("network") for found in set_scores.values()],
        "decoder": "Enhance Decoder" if model.config.use_enhance_decoder else "pixel decoder",
        "codebook": codebook_statistics(counts),
        "tokenizer": str(settings.tokenizer),
        "data": str(settings.data),
        "data_fingerprint": images.fingerprint,
        "commit": code_commit(),
    }


def _batches(
    images: Any, size: int, batch_size: int, indices: Sequence[int]
) -> Iterator[tuple[Sequence[int], Tensor]]:
    """Indices of the images, and (B, 3, size, size) in [-1, 1]."""
    at_once = images_at_once(batch_size, size)
    for start in range(0, len(indices), at_once):
        part = indices[start : start + at_once]
        yield part, torch.stack([images.image_tensor(i, size) for i in part])


def _mean_image(images: Any, size: int, batch_size: int, ranks: RankGroup) -> Tensor:
    """(3, size, size) levels in [0, 255]: the best that a model blind to its input could draw."""
    total = torch.zeros(3, size, size, dtype=torch.float64)
    mine = range(ranks.rank, len(images), ranks.world_size)
    for _, batch in _batches(images, size, batch_size, mine):
        total += to_levels(batch).double().sum(dim=0)
    return (sum(ranks.gather(total)) / len(images)).round().float()


class WorstPairs:
    """Keeps the pairs of lowest PSNR of one rank, as many as are wanted of the whole set."""

    def __init__(self, count: int):
        self.count = count
        self._kept: list[tuple[float, int, Tensor, Tensor]] = []

    def offer(self, index: int, psnr: float, image: Tensor, rebuilt: Tensor) -> None:
        """Consider a pair of (3, H, W) in [-1, 1]."""
        # The worst first; the index decides between equals.
        if len(self._kept) < self.count or (psnr, index) < self._kept[-1][:2]:
            bisect.insort(self._kept, (psnr, index, image.clone(), rebuilt.clone()))
            del self._kept[self.count :]

    def save(self, rows: Sequence[dict[str, Any]], folder: Path) -> None:
        """Mark the worst rows of the whole set, `worst` from 0, and save the pairs that are here.

        The rows are those of all images, in their order; rows with a `pair` are shown anyway.
        """
        others = [(row["psnr"], i) for i, row in enumerate(rows) if "pair" not in row]
        ranking = {index: rank for rank, (_, index) in enumerate(sorted(others)[: self.count])}
        for index, rank in ranking.items():
            rows[index]["worst"] = rank
        for _, index, image, rebuilt in self._kept:
            if index in ranking:
                save_pair(image, rebuilt, folder, f"worst-{ranking[index]:02d}")


def save_pair(image: Tensor, rebuilt: Tensor, folder: Path, stem: str) -> None:
    """Save (3, H, W) tensors in [-1, 1] as `STEM_real.png` and `STEM_reconstruction.png`."""
    write_png(to_pil(image), folder / f"{stem}_real.png")
    write_png(to_pil(rebuilt), folder / f"{stem}_reconstruction.png")
