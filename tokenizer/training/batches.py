"""The images of each step, and those that k-means starts from."""

from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader

from data_pipelines.images import scale_pixels
from data_pipelines.loading.augment import augment
from data_pipelines.loading.batches import StepBatches
from data_pipelines.loading.dataset import PreparedDataset
from data_pipelines.loading.image_dataset import PreparedImages
from tokenizer.training.settings import TrainingSettings

# Of the images that pass through the networks at once before the first step; 16 at 256². Thousands
# of them at once would take more memory than a training step.
START_PIXELS = 2**20


def step_batches(
    dataset: PreparedDataset,
    image_size: int,
    training: TrainingSettings,
    first_step: int,
    accelerator: Accelerator,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every step from `first_step` on, with this rank's images, a function of the seed alone:
    {"images": (B, 3, H, W) in [-1, 1], "caption": B texts}."""
    sampler = StepBatches(
        len(dataset),
        training.global_batch_size,
        training.seed,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        start_step=first_step,
        num_steps=training.num_steps,
    )
    loader = DataLoader(
        PreparedImages(dataset, image_size),
        batch_sampler=sampler,
        num_workers=training.num_workers,
        generator=torch.Generator(),  # the global one's state is part of a checkpoint
    )
    for step, batch in enumerate(loader, start=first_step):
        images = augment(
            scale_pixels(batch["pixels"].flatten(0, 1)),
            batch["caption"],
            training.max_shift,
            training.flip,
            seed=(training.seed, step, accelerator.process_index),
        )
        yield step, {"images": images.to(accelerator.device), "caption": batch["caption"]}


def kmeans_batches(
    dataset: PreparedDataset, image_size: int, num_images: int, seed: int, accelerator: Accelerator
) -> Iterator[Tensor]:
    """This rank's part of the (B, 3, H, W) images that k-means starts from, a few at a time.

    `num_images` counts over all ranks, and is at most the number of those that there are.
    """
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
    # Equal on all ranks, whose vectors are gathered.
    own = max(1, min(num_images, len(dataset)) // accelerator.num_processes)
    positions = torch.arange(own) + accelerator.process_index * own
    mine = order[positions % len(order)].tolist()
    at_once = max(1, START_PIXELS // image_size**2)
    for first in range(0, own, at_once):
        part = [dataset.image_tensor(i, image_size) for i in mine[first : first + at_once]]
        yield torch.stack(part).to(accelerator.device)
