"""A prepared folder as a torch data set of image tensors."""

from typing import Any

from torch.utils.data import Dataset

from data_pipelines.images import open_image, resize_and_crop, to_tensor
from data_pipelines.loading.dataset import PreparedDataset


class ImageTensors(Dataset):
    """Item i is {"images": (3, size, size) float in [-1, 1], "caption": str}.

    Args:
        records: the prepared folder, opened with `images_only`.
        size: height and width in pixels; the shorter side is resized, the middle kept.
    """

    def __init__(self, records: PreparedDataset, size: int):
        self.records = records
        self.size = size

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self.records[index]
        assert record.image is not None
        image = open_image(record.image, name=f"the image of {record.record_id}")
        return {
            "images": to_tensor(resize_and_crop(image, self.size)),
            "caption": record.captions[0] if record.captions else "",
        }
