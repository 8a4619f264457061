r"""Reconstruction by a saved image tokenizer: scores of images and sets, and use of the codebooks.

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

from eval.measures.feature_networks import load_feature_network
from eval.measures.image_source import CROPS, EvaluationImages
from eval.measures.set_distance import require_enough_images
from eval.measures.set_scores import SetDistances, require_pairs
from eval.reconstruction.scores import MS_SSIM_MIN_SIZE, image_scores, mean_scores
from eval.reconstruction.worst_pairs import WorstPairs
from runtime.errors import UserError
from runtime.progress import Progress
from runtime.rank_group import RankGroup
from runtime.ranks import is_main_rank
from runtime.run_folder import describe_environment, make_folder
from tokenizer.codebooks.usage import codebook_statistics
from tokenizer.losses.image_quality import MAX_PSNR, image_psnr, to_levels
from tokenizer.losses.perceptual import PerceptualDistance, load_distance

NUM_SHOWN = 12
NUM_WORST = 6


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
    """What an evaluation is run with; saved beside its results."""

    tokenizer: str
    """Folder of the image tokenizer."""
    data: str
    """Folder of the prepared data set, or of images."""
    batch_size: int = 64
    """Images at a time; results do not depend on it."""
    resolution: int | None = None
    """Pixels of a side; None is the tokenizer's own."""
    crop: str | None = None
    """A name of `image_source.CROPS`; None is adm for a folder, shorter-side for prepared."""
    networks: tuple[str, ...] = ()
    """Feature networks of the set distances, see `load_feature_network`."""
    distances: tuple[str, ...] = ("frechet",)
    """Of "frechet" and "kid"."""
    perceptual: str | None = None
    """Network of a perceptual distance: lpips-vgg, efficientnet-lite0 or a transformers encoder."""
    max_images: int | None = None
    """Images to take, evenly spaced; None is all."""


def evaluate(
    tokenizer_dir: Path | str,
    data_dir: Path | str,
    out_dir: Path | str,
    batch_size: int = 64,
    **options: Any,
) -> dict[str, Any]:
    """Encode and decode every image of a data set, measure and save; under torchrun on all ranks.

    Writes `summary.json`, `per_image.jsonl`, pairs of images under `pairs/`, and `codes.npz` with
    the code maps of those pairs (`semantic`, `pixel`: (B, h, w)) and the counts of every code over
    the whole set (`semantic_counts` (K,), `pixel_counts` (K, M)).

    Args:
        tokenizer_dir: a saved SemHiTok model.
        data_dir: a prepared data set, or a folder of images.
        out_dir: where the results go; made if missing.
        batch_size: images at a time; results do not depend on it.
        options: the other fields of `ReconstructionSettings`.

    Returns:
        What `summary.json` holds.

    Raises:
        UserError: if there are no images, fewer than a distance wants, an image is damaged, a
            network cannot be had, or a path holds no model.
    """
    from mllm.saved.fingerprint import model_fingerprint
    from runtime.run_folder import write_json, write_text
    from tokenizer.saved.model_folder import load_tokenizer

    settings = ReconstructionSettings(str(tokenizer_dir), str(data_dir), batch_size, **options)
    out_dir = Path(out_dir)
    images = EvaluationImages(settings.data, settings.crop, settings.max_images)
    distances = _set_distances(settings, len(images))
    perceptual = load_distance(settings.perceptual) if settings.perceptual else None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_tokenizer(settings.tokenizer).to(device).eval()
    size = _resolution(settings, model)
    with RankGroup() as ranks:
        measured = _measure(
            model, images, size, batch_size, out_dir / "pairs", distances, perceptual, ranks
        )
        set_scores = distances.scores(ranks)
        fingerprint = ranks.from_main(lambda: model_fingerprint(settings.tokenizer))
    summary = _summary(settings, images, model, size, measured, set_scores)
    summary["checkpoint_fingerprint"] = fingerprint
    if ranks.rank:
        return summary
    np.savez_compressed(
        out_dir / "codes.npz",
        semantic=np.stack(measured.semantic_maps),
        pixel=np.stack(measured.pixel_maps),
        semantic_counts=measured.counts.sum(axis=1),
        pixel_counts=measured.counts,
    )
    rows = "".join(json.dumps(row) + "\n" for row in measured.rows)
    write_text(out_dir / "per_image.jsonl", rows)
    write_json(out_dir / "summary.json", summary)  # last: its presence says the rest is complete
    return summary


def command(args: Namespace) -> Path:
    """Run `semhitok eval reconstruction`; returns the folder that was written."""
    from dataclasses import asdict

    from eval.reports.evaluation_page import report_reconstruction
    from runtime.run_folder import RunDirectory

    settings = ReconstructionSettings(
        tokenizer=str(args.tokenizer),
        data=str(args.data),
        batch_size=args.batch_size,
        resolution=args.resolution,
        crop=args.crop,
        networks=tuple(args.network or ()),
        distances=tuple(args.distance),
        perceptual=args.perceptual,
        max_images=args.max_images,
    )
    RunDirectory(args.out).start(settings, "semhitok eval reconstruction")
    values = asdict(settings)
    summary = evaluate(values.pop("tokenizer"), values.pop("data"), args.out, **values)
    if is_main_rank():
        scores = ", ".join(
            f"{name} {found['value']:.4g}" for name, found in summary["scores"].items()
        )
        print(
            f"{scores}; {summary['num_images']:,} images at {summary['resolution']}²; the mean "
            f"image gives {summary['mean_image_psnr']:.2f} dB"
        )
        report_reconstruction(args.out)
    return Path(args.out)


def _set_distances(settings: ReconstructionSettings, num_images: int) -> SetDistances:
    """The networks, and a refusal before the work begins where they want more images."""
    networks = [load_feature_network(name) for name in settings.networks]
    if networks:
        require_pairs(settings.distances, num_images)
    if "frechet" in settings.distances:
        for network in networks:
            require_enough_images(num_images, network.dim, settings.data, network.label)
    return SetDistances(networks, settings.distances)


def _resolution(settings: ReconstructionSettings, model: Any) -> int:
    size = settings.resolution or model.config.image_size
    patch = getattr(model.config, "patch_size", 1)
    if size % patch:
        near = max(1, round(size / patch)) * patch
        raise UserError(
            f"The resolution {size} is not divisible by the tokenizer's patches of {patch} "
            f"pixels: take {near}."
        )
    return int(size)


@dataclass
class _Measured:
    """What the pass over the images leaves."""

    rows: list[dict[str, Any]]
    """Scores of each image, in their order."""
    counts: np.ndarray
    """(K, M), how often each code occurred."""
    semantic_maps: list[np.ndarray]
    """(h, w) of each shown pair."""
    pixel_maps: list[np.ndarray]
    """The same of the pixel codes."""


@torch.inference_mode()
def _measure(
    model: Any,
    images: EvaluationImages,
    size: int,
    batch_size: int,
    pairs_dir: Path,
    distances: SetDistances,
    perceptual: PerceptualDistance | None,
    ranks: RankGroup,
) -> _Measured:
    """One pass over this rank's images, and what all ranks found."""
    num_semantic, num_pixel = model.config.num_semantic_codes, model.config.num_pixel_codes
    device = next(model.parameters()).device
    mean_image = _mean_image(images, size, batch_size, ranks)
    shown = np.linspace(0, len(images) - 1, min(NUM_SHOWN, len(images))).astype(int).tolist()
    make_folder(pairs_dir)

    counts = torch.zeros(num_semantic * num_pixel, dtype=torch.int64)
    rows: list[dict[str, Any]] = []
    maps: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    worst = WorstPairs(NUM_WORST)
    mine = range(ranks.rank, len(images), ranks.world_size)
    with Progress(len(mine), "reconstruct", "image") as progress:
        for chosen, batch in _batches(images, size, batch_size, mine):
            codes = model.encode(batch.to(device))
            rebuilt = model.decode(codes).float().cpu()
            semantic, pixel = codes.semantic.cpu(), codes.pixel.cpu()
            counts += torch.bincount(
                (semantic * num_pixel + pixel).flatten(), minlength=len(counts)
            )
            distances.add(batch, rebuilt)
            target = to_levels(batch)
            scores = image_scores(batch, rebuilt, perceptual) | {
                "mean_image_psnr": image_psnr(mean_image.expand_as(target), target).tolist()
            }
            for place, index in enumerate(chosen):
                row: dict[str, Any] = {"record_id": images.record_id(index)}
                row |= {name: values[place] for name, values in scores.items()}
                if index not in shown:
                    worst.offer(index, row["psnr"], batch[place], rebuilt[place])
                else:
                    row["pair"] = shown.index(index)
                    _save_pair(batch[place], rebuilt[place], pairs_dir, row["pair"])
                    maps[row["pair"]] = (_as_grid(semantic[place]), _as_grid(pixel[place]))
                rows.append(row)
            progress.update(len(batch))
    parts = ranks.gather((rows, counts, maps))
    whole: list[dict[str, Any]] = [{}] * len(images)
    for rank, (its_rows, _, _) in enumerate(parts):
        whole[rank :: ranks.world_size] = its_rows
    worst.save(whole, pairs_dir)
    ranks.gather(None)  # nobody reports before everybody has saved
    all_maps = {pair: found for _, _, part in parts for pair, found in part.items()}
    ordered = [all_maps[pair] for pair in sorted(all_maps)]
    total = sum(part[1] for part in parts).view(num_semantic, num_pixel).numpy()
    return _Measured(whole, total, [pair[0] for pair in ordered], [pair[1] for pair in ordered])


def _summary(
    settings: ReconstructionSettings,
    images: EvaluationImages,
    model: Any,
    size: int,
    measured: _Measured,
    set_scores: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    psnr, ssim, mean_image_psnr = (
        [row[name] for row in measured.rows] for name in ("psnr", "ssim", "mean_image_psnr")
    )
    name = None if settings.perceptual is None else perceptual_name(settings.perceptual)
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
        "scores": mean_scores(measured.rows, name) | set_scores,
        "ms_ssim_absent": None
        if size >= MS_SSIM_MIN_SIZE
        else f"five scales want at least {MS_SSIM_MIN_SIZE} pixels",
        "feature_networks": [found.get("network") for found in set_scores.values()],
        "decoder": "Enhance Decoder" if model.config.use_enhance_decoder else "pixel decoder",
        "codebook": codebook_statistics(measured.counts),
        "tokenizer": settings.tokenizer,
        "data": settings.data,
        "data_fingerprint": images.fingerprint,
        "commit": (describe_environment()["git"] or {}).get("commit"),
    }


def perceptual_name(network: str) -> str:
    """Only the published LPIPS is called so."""
    return "LPIPS (VGG-16)" if network == "lpips-vgg" else f"perceptual distance ({network})"


def _batches(
    images: Any, size: int, batch_size: int, indices: Sequence[int] | None = None
) -> Iterator[tuple[Sequence[int], Tensor]]:
    """Indices of the images, and (B, 3, size, size) in [-1, 1]."""
    chosen = range(len(images)) if indices is None else indices
    for start in range(0, len(chosen), batch_size):
        part = chosen[start : start + batch_size]
        yield part, torch.stack([images.image_tensor(i, size) for i in part])


def _mean_image(images: Any, size: int, batch_size: int, ranks: RankGroup) -> Tensor:
    """(3, size, size) levels in [0, 255]: the best that a model blind to its input could draw."""
    total = torch.zeros(3, size, size, dtype=torch.float64)
    mine = range(ranks.rank, len(images), ranks.world_size)
    for _, batch in _batches(images, size, batch_size, mine):
        total += to_levels(batch).double().sum(dim=0)
    return (sum(ranks.gather(total)) / len(images)).round().float()


def _as_grid(codes: Tensor) -> np.ndarray:
    """(N,) row-major codes of a square image → (h, w)."""
    side = math.isqrt(codes.numel())
    return codes.view(side, side).numpy()


def _save_pair(image: Tensor, rebuilt: Tensor, folder: Path, index: int) -> None:
    """Save (3, H, W) tensors in [-1, 1] as `NN_real.png` and `NN_reconstruction.png`."""
    from data_pipelines.images import to_pil

    to_pil(image).save(folder / f"{index:02d}_real.png")
    to_pil(rebuilt).save(folder / f"{index:02d}_reconstruction.png")
