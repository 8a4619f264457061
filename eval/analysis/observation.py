r"""The observation behind the hierarchy: patches that share a semantic code look alike.

Measured as the variance of patch pixels within a code, over their overall variance: 0 where the
code tells all of the pixels, 1 where it tells nothing, as shuffled codes must.

Example:
    semhitok eval observation --tokenizer runs/quickstart/decoder/model \
        --data runs/quickstart/data/test --out runs/observation

Shapes: B batch, N image positions, p patch size, K semantic codes, M pixel codes each; n vectors
of width D in G groups.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from data_pipelines.images import write_png
from data_pipelines.loading.dataset import PreparedDataset
from eval.analysis.settings import ObservationSettings
from eval.measures.image_source import images_at_once
from eval.reports.page import Card, Report, Section, write_report
from runtime.errors import UserError
from runtime.files import read_json, write_json
from runtime.memory import require_memory
from runtime.progress import Progress
from runtime.resume import holds_output
from runtime.run_folder import start_run
from tokenizer.codebooks.kmeans import kmeans
from tokenizer.model.codebook import GroupedCodebook, Metric
from tokenizer.saved.model_folder import load_tokenizer

PATCHES_FILE = "patches.png"
NUM_SHOWN_PATCHES = 16
KMEANS_VECTORS = 40_000
"""Most patches that k-means of the two baselines is fitted on."""
UNTRAINED = "k-means of an untrained encoder"
NUM_SHOWN_CODES = 12
SHUFFLED = "shuffled semantic codes"
RULE = (
    "variance of pixels in [0, 1], averaged over the values of a patch; within: about the mean of "
    "the patch's group, divided by patches less groups in use, so that codes of one patch count "
    "for nothing and random groups have a ratio of 1 on average"
)


class GroupedVariance:
    """Collects what the variance within each of `num_groups` groups needs.

    Both variances divide by their degrees of freedom: overall by n − 1, within by n less the
    groups that occur. So a group of one vector adds nothing to either side of the quotient, and
    groups drawn at random have a ratio of 1 on average however many they are, where the plain
    means of squares would show a gain that is none.
    """

    def __init__(self, num_groups: int, width: int):
        self.counts = torch.zeros(num_groups, dtype=torch.int64)
        self.sums = torch.zeros(num_groups, width, dtype=torch.float64)
        self.squares = 0.0

    def add(self, vectors: Tensor, groups: Tensor) -> None:
        """Count (n, D) vectors and their (n,) int64 groups in [0, G)."""
        vectors = vectors.double()
        self.counts += torch.bincount(groups, minlength=len(self.counts))
        self.sums.index_add_(0, groups, vectors)
        self.squares += float(vectors.square().sum())

    @property
    def num_vectors(self) -> int:
        return int(self.counts.sum())

    @property
    def num_used(self) -> int:
        """Groups that occur."""
        return int((self.counts > 0).sum())

    @property
    def overall(self) -> float:
        """Variance of a vector's values, averaged over the D of them; NaN for fewer than two."""
        about_mean = self.squares - float(self.sums.sum(0).square().sum()) / self.num_vectors
        return self._per_value(about_mean, self.num_vectors - 1)

    @property
    def within(self) -> float:
        """The same about the mean of each vector's own group; NaN where no group has two."""
        used = self.counts > 0
        explained = (self.sums[used].square().sum(1) / self.counts[used]).sum()
        return self._per_value(self.squares - float(explained), self.num_vectors - self.num_used)

    @property
    def ratio(self) -> float:
        """`within` / `overall`: 0 where the group tells all, 1 where it tells nothing."""
        return self.within / self.overall if self.overall > 0 else float("nan")

    def _per_value(self, squares: float, freedom: int) -> float:
        if freedom < 1:
            return float("nan")
        return max(0.0, squares) / freedom / self.sums.shape[1]


def to_patches(images: Tensor, patch_size: int) -> Tensor:
    """(B, 3, H, W) images in [-1, 1] → (B, N, 3·p²) pixels in [0, 1], positions row-major."""
    return F.unfold((images + 1) / 2, patch_size, stride=patch_size).transpose(1, 2)


@holds_output
def evaluate(settings: ObservationSettings) -> Path:
    """Measure, and write `summary.json`, `patches.png` and the report; returns the folder.

    Raises:
        UserError: if there are too few patches to compare, or a path holds no model or data set.
    """
    dataset = PreparedDataset(settings.data, images_only=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_tokenizer(settings.tokenizer, needs="encoder").to(device).eval()
    wanted = min(len(dataset), settings.max_images or len(dataset))
    indices = np.linspace(0, len(dataset) - 1, wanted).astype(int).tolist()
    size = model.config.image_size
    images = _Images(dataset, indices, size, images_at_once(settings.batch_size, size))
    # Held are the sums of all groups, and the permuted codes.
    num_groups = (3 + settings.shuffles) * model.config.num_semantic_codes
    sums = (num_groups + model.config.num_image_codes) * 3 * model.config.patch_size**2
    permuted = settings.shuffles * len(indices) * model.config.num_image_positions
    what = f"{settings.shuffles:,} shuffles of {len(indices):,} images"
    require_memory(8 * (sums + permuted), what, "give fewer --shuffles or --max-images")
    groupings, codes = _measure(model, images, settings.seed)
    real = groupings["semantic codes"]
    if not real.within >= 0:
        raise UserError(
            f"{settings.data} has {real.num_vectors:,} patches and no two of them share a semantic "
            "code, so nothing can be compared: measure more images."
        )
    if not real.overall > 0:
        raise UserError(f"all patches of {settings.data} are equal: measure other images.")
    start_run(settings.out, settings, "semhitok eval observation")
    shuffled, shown = _shuffle(model, images, codes, settings.shuffles, settings.seed)
    ratios = [each.ratio for each in shuffled]
    rows = {name: _row(grouping) for name, grouping in groupings.items()}
    rows[SHUFFLED] = _row(shuffled[0]) | {
        "within_variance": float(np.mean([each.within for each in shuffled])),
        "ratio": float(np.mean(ratios)),
        "ratio_deviation": float(np.std(ratios, ddof=1)) if len(ratios) > 1 else None,
    }
    summary = {
        "task": "observation",
        "num_images": len(indices),
        "num_patches": real.num_vectors,
        "resolution": model.config.image_size,
        "patch_size": model.config.patch_size,
        "overall_variance": real.overall,
        "ratio": real.ratio,
        "shuffled_ratio": rows[SHUFFLED]["ratio"],
        "groupings": rows,
        "rule": RULE,
        "num_shuffles": settings.shuffles,
        "seed": settings.seed,
        "tokenizer": str(settings.tokenizer),
        "data": str(settings.data),
        "data_fingerprint": dataset.fingerprint,
    }
    write_png(_draw_patches(shown, model.config.patch_size), settings.out / PATCHES_FILE)
    write_json(settings.out / "summary.json", summary)
    write_report(report_observation(settings.out), settings.out)
    print(
        f"variance of patch pixels within a semantic code: {summary['ratio']:.1%} of the overall, "
        f"{summary['shuffled_ratio']:.1%} with shuffled codes, over {summary['num_patches']:,} "
        "patches"
    )
    return settings.out


@dataclass(frozen=True)
class _Images:
    """The chosen images, again and again in one order."""

    dataset: Any
    indices: list[int]
    size: int
    batch_size: int

    def batches(self, label: str) -> Iterator[Tensor]:
        """(B, 3, size, size) in [-1, 1]."""
        with Progress(len(self.indices), label, "image") as progress:
            for start in range(0, len(self.indices), self.batch_size):
                yield self.tensor(self.indices[start : start + self.batch_size])
                progress.update(min(self.batch_size, len(self.indices) - start))

    def tensor(self, indices: list[int]) -> Tensor:
        return torch.stack([self.dataset.image_tensor(index, self.size) for index in indices])


@torch.inference_mode()
def _measure(model: Any, images: _Images, seed: int) -> tuple[dict[str, GroupedVariance], Tensor]:
    """Every grouping's variances, and the (n, N) semantic codes of all images."""
    config, device = model.config, next(model.parameters()).device
    width, num_codes = 3 * config.patch_size**2, config.num_semantic_codes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        untrained = type(model)(config).eval().to(device)  # with random weights, teacher and all
    by_pixels, by_features = _baselines(model, untrained, images, seed)
    groupings = {
        "semantic codes": GroupedVariance(num_codes, width),
        "image codes": GroupedVariance(config.num_image_codes, width),
        UNTRAINED: GroupedVariance(num_codes, width),
        "k-means of the pixels": GroupedVariance(num_codes, width),
    }
    kept = []
    for batch in images.batches("patches"):
        patches = to_patches(batch, config.patch_size).flatten(0, 1)
        codes = model.encode(batch.to(device))
        features = _features(untrained, batch.to(device))
        groups = [
            codes.semantic.flatten(),
            codes.flat.flatten(),
            by_features.nearest(by_features.normalize(features)),
            by_pixels.nearest(patches.to(device)),
        ]
        for grouping, group in zip(groupings.values(), groups, strict=True):
            grouping.add(patches, group.cpu())
        kept.append(codes.semantic.cpu())
    return groupings, torch.cat(kept)


def _features(model: Any, images: Tensor) -> Tensor:
    """(B·N, D_semantic) unquantised semantic vectors."""
    return model.semantic_vectors(model.teacher_features(images), model.grid(images)).flatten(0, 1)


def _baselines(model: Any, untrained: Any, images: _Images, seed: int) -> tuple[Any, Any]:
    """K groups by k-means over a part of the patches: of their pixels, and of random features."""
    config, device = model.config, next(model.parameters()).device
    wanted = min(len(images.indices), max(1, KMEANS_VECTORS // config.num_image_positions))
    places = np.linspace(0, len(images.indices) - 1, wanted).astype(int)
    batch = images.tensor([images.indices[place] for place in places])
    at_once = images_at_once(1024, images.size)
    pixels = to_patches(batch, config.patch_size).flatten(0, 1)
    features = torch.cat([_features(untrained, part.to(device)) for part in batch.split(at_once)])

    def grouped(vectors: Tensor, metric: Metric) -> GroupedCodebook:
        # k-means draws its codes from the patches, so it finds at most as many groups.
        num_codes = min(config.num_semantic_codes, len(vectors))
        codebook = GroupedCodebook(1, num_codes, vectors.shape[1], metric).to(device)
        kmeans(codebook, vectors.to(device), None, seed)
        return codebook

    return grouped(pixels, "euclidean"), grouped(features, config.semantic_metric)


def _shuffle(
    model: Any, images: _Images, codes: Tensor, num_shuffles: int, seed: int
) -> tuple[list[GroupedVariance], list[list[Tensor]]]:
    """The same variances with permuted codes, and some patches of some codes to look at."""
    config = model.config
    generator = torch.Generator().manual_seed(seed)
    flat = codes.flatten()
    permuted = [flat[torch.randperm(len(flat), generator=generator)] for _ in range(num_shuffles)]
    width = 3 * config.patch_size**2
    shuffled = [GroupedVariance(config.num_semantic_codes, width) for _ in permuted]
    shown: dict[int, list[Tensor]] = {code: [] for code in _shown_codes(codes)}
    first = 0
    for batch in images.batches("shuffled"):
        patches = to_patches(batch, config.patch_size)
        last = first + patches.shape[0] * patches.shape[1]
        for grouping, groups in zip(shuffled, permuted, strict=True):
            grouping.add(patches.flatten(0, 1), groups[first:last])
        own = flat[first:last].view(patches.shape[:2])
        for code, taken in shown.items():
            for image in (own == code).any(1).nonzero()[:, 0].tolist():
                if len(taken) < NUM_SHOWN_PATCHES:  # one of each image
                    taken.append(patches[image, (own[image] == code).nonzero()[0, 0]])
        first = last
    return shuffled, list(shown.values())


def _shown_codes(codes: Tensor) -> list[int]:
    """Codes (n, N) from that of most images to the last that fills a row, evenly spaced between."""
    num_codes = int(codes.max()) + 1
    image = torch.arange(len(codes)).unsqueeze(1)
    counts = torch.bincount((image * num_codes + codes).unique() % num_codes)
    order = counts.argsort(descending=True)
    order = order[counts[order] >= min(NUM_SHOWN_PATCHES, int(counts.max()))]
    places = np.linspace(0, len(order) - 1, min(NUM_SHOWN_CODES, len(order))).astype(int)
    return [int(order[place]) for place in places]


def _draw_patches(rows: list[list[Tensor]], patch_size: int, scale: int = 4) -> Image.Image:
    """One row of patches for each code, with a white line between."""
    step = patch_size * scale + 4
    picture = Image.new("RGB", (NUM_SHOWN_PATCHES * step, len(rows) * step), "white")
    for y, row in enumerate(rows):
        for x, patch in enumerate(row):
            pixels = patch.view(3, patch_size, patch_size).permute(1, 2, 0)
            tile = Image.fromarray((pixels * 255).round().byte().numpy())
            tile = tile.resize((patch_size * scale,) * 2, Image.Resampling.NEAREST)
            picture.paste(tile, (x * step, y * step))
    return picture


def _row(grouping: GroupedVariance) -> dict[str, Any]:
    return {
        "within_variance": grouping.within,
        "ratio": grouping.ratio,
        "num_groups": len(grouping.counts),
        "num_groups_used": grouping.num_used,
        "num_groups_of_one": int((grouping.counts == 1).sum()),
    }


def report_observation(folder: Path) -> Report:
    """The report of the measurement in a folder."""
    summary = read_json(folder / "summary.json")
    groupings = summary["groupings"]
    rows = []
    for name, row in groupings.items():
        deviation = row.get("ratio_deviation")
        spread = "" if deviation is None else f" ± {deviation:.2%}"
        ratio = "–" if row["ratio"] is None else f"{row['ratio']:.2%}{spread}"
        within = "–" if row["within_variance"] is None else f"{row['within_variance']:.5f}"
        used = f"{row['num_groups_used']:,} of {row['num_groups']:,}"
        rows.append((name, used, f"{row['num_groups_of_one']:,}", within, ratio))
    untrained, both = groupings[UNTRAINED]["ratio"], groupings["image codes"]["ratio"]
    lead = (
        f"Within a semantic code pixels vary {summary['ratio']:.1%} as much as overall, with the "
        f"codes shuffled over the patches {summary['shuffled_ratio']:.1%}. 0 % would be a code "
        "that tells all of the pixels, 100 % one that tells nothing. As many groups without "
        f"meaning leave {_percent(untrained)}, semantic and pixel codes together {_percent(both)}."
    )
    note = (
        f"{summary['num_patches']:,} patches of {summary['patch_size']}×{summary['patch_size']} "
        f"pixels, from {summary['num_images']:,} images at {summary['resolution']}². Overall "
        f"variance of a pixel: {summary['overall_variance']:.5f}. Rule: {summary['rule']}. K-means "
        "of the pixels is about the least that as many groups can leave; k-means of an untrained "
        "encoder is what groups without meaning leave. Both were fitted on at most "
        f"{KMEANS_VECTORS:,} of the patches."
    )
    header = ("Patches grouped by", "Groups in use", "Of one patch", "Variance within")
    caption = f"{NUM_SHOWN_PATCHES} images with one code each"
    cards = [Card("A row a code", [(folder / PATCHES_FILE, caption)])]
    sections = [
        Section("Variance of pixels", header=(*header, "Of overall"), rows=rows, note=note),
        Section("Patches that share a semantic code", cards=cards),
    ]
    about = {key: value for key, value in summary.items() if key != "groupings"}
    return Report("Do patches that share a semantic code look alike?", lead, sections, about)


def _percent(fraction: float | None) -> str:
    return "–" if fraction is None else f"{fraction:.1%}"
