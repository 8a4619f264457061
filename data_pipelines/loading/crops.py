"""Several crops of each image, the same on every machine and in every run.

Codes are extracted once and trained on for many epochs; with several crops of each image the model
need not see the same pixels each time (LlamaGen extracts ten).
"""

import random

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from data_pipelines.images import open_image, resize_and_crop
from data_pipelines.loading.dataset import PreparedDataset

MAX_ZOOM = 1.1
"""LlamaGen cuts its ten crops from an image 1.1 times the size. There is no mirroring: a caption or
a question may speak of left and right."""


def numbered_crop(image: Image.Image, size: int, number: int, name: str) -> Image.Image:
    """Cut one of an image's crops.

    Crop 0 is `resize_and_crop`'s, the centre, which every model sees when it is asked. The others
    are squares whose side is the image's shorter one, divided by 1 … `MAX_ZOOM`, anywhere in the
    image.

    Args:
        image: RGB.
        size: pixels of the result.
        number: of the crop, from 0.
        name: of the image; name and number alone decide the place.
    """
    if number == 0:
        return resize_and_crop(image, size)
    draw = random.Random(f"{name} {number}")
    side = min(image.size) / draw.uniform(1.0, MAX_ZOOM)
    left, top = (draw.uniform(0.0, length - side) for length in image.size)
    # Rounding must not carry the box over the edge, which Pillow refuses.
    box = (left, top, min(left + side, image.width), min(top + side, image.height))
    return image.resize((size, size), Image.Resampling.BICUBIC, box=box)


class ImageCrops(Dataset):
    """Item i is every crop of record i, (C, size, size, 3) uint8.

    Pixels as they come: a quarter of the bytes between processes and to a GPU, and `scale_pixels`
    on a whole batch takes half the time of the images one by one.

    Args:
        records: the prepared folder, opened with `images_only`.
        size: height and width in pixels.
        num_crops: C.
    """

    def __init__(self, records: PreparedDataset, size: int, num_crops: int = 1):
        self.records = records
        self.size = size
        self.num_crops = num_crops

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Tensor:
        record_id, encoded = self.records.image(index)
        assert encoded is not None
        image = open_image(encoded, name=f"the image of {record_id}")
        crops = [
            np.asarray(numbered_crop(image, self.size, number, record_id))
            for number in range(self.num_crops)
        ]
        return torch.from_numpy(np.stack(crops))
