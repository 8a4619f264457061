"""Distances between a benchmark's drawings and real images; of MJHQ each category too."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from data_pipelines.images import to_tensor
from eval.drawing.layouts import LAYOUTS, Prompt
from eval.drawing.scored import Scored, Scorer, open_pictures
from eval.drawing.settings import GenerationSettings
from eval.measures.feature_networks import INCEPTION_SIZE, load_feature_network
from eval.measures.image_source import CROPS, EvaluationImages
from eval.measures.set_distance import SetDistances
from runtime.errors import UserError
from runtime.progress import Progress

BATCH = 32  # images that a network looks at together


def load_set_distances(
    settings: GenerationSettings, prompts: Sequence[Prompt], folder: Path
) -> Scorer:
    """Load the networks, and refuse sets, of drawings in a folder, that are too small for them.

    Real images are cut to the drawings' size, but for clean-fid, which cuts nothing: it scales
    drawings and real images of any shape to Inception's square.

    Raises:
        UserError: if a network cannot be loaded, or a set has too few images.
    """
    networks = [load_feature_network(name) for name in settings.network]
    is_clean = [network.is_clean for network in networks]
    if any(is_clean) and not all(is_clean):
        raise UserError(
            "inception-clean takes the real images uncut, and other networks cut to the drawings' "
            "size: measure them apart."
        )
    real = EvaluationImages(str(settings.reference), "stretch" if any(is_clean) else "adm")
    real_size = INCEPTION_SIZE if any(is_clean) else None
    is_grid = LAYOUTS[settings.task].grid
    number = sum(4 if is_grid else len(prompt.paths) for prompt in prompts)
    distances = SetDistances(networks, settings.distance)
    distances.require({"The drawing": number, str(settings.reference): len(real)})

    def score() -> Scored:
        absent = _compare_sets(folder, settings.task, prompts, real, real_size, distances)
        by_category = {} if absent else distances.group_scores()
        scores = distances.scores()
        for category, found in by_category.items():
            scores |= {f"{name}: {category}": part for name, part in found.items()}
        about: dict[str, Any] = {
            "feature_networks": [network.label for network in networks],
            "reference": str(settings.reference),
            "reference_fingerprint": real.fingerprint,
            "crop": f"of the real images: {CROPS[real.crop].about}",
        }
        if settings.task == "mjhq":
            about |= {"by_category": by_category, "by_category_absent": absent}
        return Scored(scores, about)

    return score


def _compare_sets(
    folder: Path,
    task: str,
    prompts: Sequence[Prompt],
    real: EvaluationImages,
    real_size: int | None,
    distances: SetDistances,
) -> str | None:
    """Show both sets to the networks, of MJHQ by category; the real images at the drawings' size
    where none is given. Returns why categories cannot be told apart, where they are wanted."""
    with Image.open(folder / prompts[0].paths[0]) as first:
        size = first.width // (2 if LAYOUTS[task].grid else 1)
    of_real, of_prompts = [""] * len(real), [""] * len(prompts)
    absent = None
    if task == "mjhq":  # its real images lie in a folder a category, as its drawings do
        found_real = [Path(real.record_id(i)).parent.name for i in range(len(real))]
        found_prompts = [Path(prompt.paths[0]).parent.name for prompt in prompts]
        absent = _too_small(found_real, found_prompts)
        if absent is None:
            of_real, of_prompts = found_real, found_prompts
    with Progress(len(real) + len(prompts), "compare", "image") as progress:
        for group in dict.fromkeys(of_real):
            indices = [i for i, its in enumerate(of_real) if its == group]
            for start in range(0, len(indices), BATCH):
                part = indices[start : start + BATCH]
                images = torch.stack([real.image_tensor(i, real_size or size) for i in part])
                distances.add(images, None, group if group in of_prompts else "")
                progress.update(len(part))
        for prompt, group in zip(prompts, of_prompts, strict=True):
            pictures = [to_tensor(picture) for picture in open_pictures(folder, task, prompt)]
            distances.add(None, torch.stack(pictures), group)
            progress.update(1)
    return absent


def _too_small(of_real: Sequence[str], of_prompts: Sequence[str]) -> str | None:
    """Which category of the prompts has too few images for a distance of its own."""
    for which, what in ((of_prompts, "drawings"), (of_real, "real images")):
        for category in dict.fromkeys(of_prompts):
            if (number := which.count(category)) < 2:
                return f"{number} {what} in the folder {category}, where 2 are the least"
    return None
