"""Measuring a phase on held-out images while it trains.

Each rank takes every W-th image of a world of W; sums over images and counts of codes are added
over ranks, so the result does not depend on their number.

Shapes: B batch, H·W pixels, K semantic codes, M pixel codes per semantic code.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from PIL import Image
from torch import Tensor

from data_pipelines.images import to_pil, write_png
from data_pipelines.loading.dataset import PreparedDataset
from runtime.errors import UserError
from runtime.metrics_log import MetricsLog
from runtime.run_folder import make_folder
from tokenizer.codebooks.usage import codebook_statistics, usage_map
from tokenizer.losses.image_quality import image_psnr, image_ssim, to_levels
from tokenizer.losses.perceptual import PerceptualDistance
from tokenizer.model.modeling_semhitok import SemHiTokModel
from tokenizer.training.settings import ValidationSettings

Scores = tuple[dict[str, Tensor], Tensor, Tensor | None]
"""(B,) scores by name, (K, M) counts of codes, and (B, 3, H, W) reconstructions if any."""

MAX_PIXELS = 2**23
"""Of the images that are measured at once; 128 at 256²."""

_USAGE = ("semantic_usage", "pixel_usage", "pixel_usage_within_used", "dead_sub_codebooks")
_ALARMING = ("semantic_usage", "pixel_usage_within_used")


class Validation:
    """Held-out images of `image_size` pixels a side, and what to measure on them.

    `settings` name data, and `distance` is the perceptual distance, if there is one.
    """

    def __init__(
        self,
        settings: ValidationSettings,
        image_size: int,
        distance: PerceptualDistance | None,
        accelerator: Accelerator,
    ):
        assert settings.data is not None
        self.settings = settings
        self.image_size = image_size
        self.distance = distance
        self.accelerator = accelerator
        self.highest: dict[str, float] = {}  # usage of each codebook, for the alarm
        self.dataset = PreparedDataset(settings.data, images_only=True)
        if not len(self.dataset):
            raise UserError(f"{settings.data} has no images to validate on; prepare some first")

    @torch.no_grad()
    def measure(
        self, model: SemHiTokModel, phase: str
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Scores of the model as it is, averaged over the images.

        Args:
            model: left as it was.
            phase: "semantic" measures how well teacher features are rebuilt; the others images.

        Returns:
            Names and values for the log, and (H, W, 3) pictures by name: `step`, images above
            reconstructions, where anything is rebuilt, and `usage`, the map of the codebook.
        """
        score: Callable[[SemHiTokModel, Tensor], Scores]
        score = semantic_scores if phase == "semantic" else self.reconstruction_scores
        was_training = model.training
        model.eval()
        sums: dict[str, Tensor] = {}
        shape = (model.config.num_semantic_codes, model.config.num_pixel_codes)
        counts = torch.zeros(shape, dtype=torch.int64, device=self.accelerator.device)
        num_images = torch.zeros((), dtype=torch.float64, device=self.accelerator.device)
        shown: list[Tensor] = []
        for images, weight in self._batches():
            with self.accelerator.autocast():
                scores, seen, rebuilt = score(model, images)
            for name, values in scores.items():
                sums[name] = sums.get(name, 0) + weight * values.double().sum()
            counts += weight * seen
            num_images += weight * len(images)
            if rebuilt is not None and len(shown) < self.settings.num_shown:
                pairs = torch.stack([images, rebuilt.to(images)], dim=1).cpu()
                shown += list(pairs)[: self.settings.num_shown - len(shown)]
        model.train(was_training)
        total = self.accelerator.reduce(torch.stack([num_images, *sums.values()]), reduction="sum")
        averages = dict(zip(sums, (total[1:] / total[0]).tolist(), strict=True))
        numbers = self.accelerator.reduce(counts, reduction="sum").cpu().numpy()
        statistics = codebook_statistics(numbers)
        names = ("semantic_usage",) if phase == "semantic" else _USAGE
        averages |= {name: float(statistics[name]) for name in names}
        pictures = {} if phase == "semantic" else {"usage": usage_map(numbers)}
        if shown:
            pictures["step"] = _grid(shown)
        return {f"validation_{name}": value for name, value in averages.items()}, pictures

    def record(
        self, model: SemHiTokModel, phase: str, out: Path, step: int, log: MetricsLog
    ) -> dict[str, float]:
        """Measure after `step` steps, print alarms, and save pictures to `out/validation`.

        Returns:
            Names and values for the log, with the number of alarms.
        """
        values, pictures = self.measure(model, phase)
        values["usage_alarms"] = len(self.alarm(values, step))
        for name, picture in pictures.items() if self.accelerator.is_main_process else ():
            folder = make_folder(out / "validation")
            write_png(Image.fromarray(picture), folder / f"{name}-{step:06d}.png")
            log.write_image(step, "validation" if name == "step" else name, picture)
        return values

    def reconstruction_scores(self, model: SemHiTokModel, images: Tensor) -> Scores:
        """PSNR in dB, SSIM and perceptual distance of each image through its codes."""
        codes = model.encode(images)
        rebuilt = model.decode(codes, model.grid(images)).float()
        levels, target = to_levels(rebuilt), to_levels(images)
        scores = {"psnr": image_psnr(levels, target), "ssim": image_ssim(levels, target)}
        if self.distance is not None:
            scores["perceptual"] = self.distance(rebuilt, images)
        counts = torch.bincount(codes.flat.flatten(), minlength=model.config.num_image_codes)
        return scores, counts.view(-1, model.config.num_pixel_codes), rebuilt

    def alarm(self, values: dict[str, float], step: int) -> list[str]:
        """Print, and return, a line for each codebook whose usage is low or has fallen."""
        lines = []
        for name in _ALARMING:
            usage = values.get(f"validation_{name}")
            if usage is None:
                continue
            highest = self.highest[name] = max(usage, self.highest.get(name, 0.0))
            if usage < self.settings.usage_alarm:
                trouble = f"is below {self.settings.usage_alarm:g}"
            elif usage < self.settings.usage_fall * highest:
                trouble = f"has fallen from {highest:.3f}"
            else:
                continue
            lines.append(f"ALARM step {step}: {name} {usage:.3f} {trouble}; the codebook collapses")
        if self.accelerator.is_main_process:
            for line in lines:
                print(line, file=sys.stderr, flush=True)
        return lines

    def remember(self, records: list[dict[str, Any]]) -> None:
        """Take up the highest usage of a resumed run from the lines of its log."""
        for name in _ALARMING:
            logged = [r[f"validation_{name}"] for r in records if f"validation_{name}" in r]
            self.highest[name] = max(logged, default=0.0)

    def _batches(self) -> Iterator[tuple[Tensor, int]]:
        """(B, 3, H, W) images of this rank, and 1; one image that counts 0 where there are none."""
        rank, world_size = self.accelerator.process_index, self.accelerator.num_processes
        mine = range(rank, min(len(self.dataset), self.settings.num_images), world_size)
        at_once = min(self.settings.batch_size, max(1, MAX_PIXELS // self.image_size**2))
        for first in range(0, max(1, len(mine)), at_once):
            part = mine[first : first + at_once] or range(1)
            images = [self.dataset.image_tensor(index, self.image_size) for index in part]
            yield torch.stack(images).to(self.accelerator.device), min(1, len(mine))


def semantic_scores(model: SemHiTokModel, images: Tensor) -> Scores:
    """Cosine and L1 distance of each image's rebuilt teacher features."""
    grid = model.grid(images)
    target = model.teacher_features(images)
    quantized = model.semantic_codebook(model.semantic_vectors(target, grid))
    features = model.semantic_features(quantized.vectors, grid)
    scores = {
        "cosine": F.cosine_similarity(features.float(), target.float(), dim=-1).mean(1),
        "l1": (features - target).float().abs().mean((1, 2)),
    }
    num_codes = model.config.num_semantic_codes
    counts = torch.bincount(quantized.codes.flatten(), minlength=num_codes)
    # There are no pixel codes yet: every patch counts for the first one of its semantic code.
    padded = F.pad(counts.unsqueeze(1), (0, model.config.num_pixel_codes - 1))
    return scores, padded, None


def _grid(pairs: list[Tensor]) -> np.ndarray:
    """(2, 3, H, W) pairs in [-1, 1] → images in the first row, reconstructions in the second."""
    rows = torch.stack(pairs).permute(1, 2, 3, 0, 4).flatten(3)  # (2, 3, H, pairs · W)
    return np.concatenate([np.asarray(to_pil(row.float())) for row in rows])
