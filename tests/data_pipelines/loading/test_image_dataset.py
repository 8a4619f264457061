import numpy as np
import torch
from PIL import Image

from data_pipelines.images import numbered_crop, open_image, scale_pixels
from data_pipelines.loading.dataset import PreparedDataset
from data_pipelines.loading.image_dataset import PreparedImages
from data_pipelines.records import Record
from tests.data_pipelines.small_sources import encoded
from tests.prepared import prepare_records


def test_an_item_is_every_crop_of_a_record_and_its_first_caption(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    image = encoded(Image.fromarray(pixels))
    records = [Record("a", image, ["first", "second"]), Record("b", image)]
    data = PreparedDataset(prepare_records(records, tmp_path / "data"), images_only=True)
    images = PreparedImages(data, 16, num_crops=3)
    assert len(images) == 2
    assert [item["caption"] for item in (images[0], images[1])] == ["first", ""]
    for number in range(3):
        crop = np.asarray(numbered_crop(open_image(image), 16, number, "a"))
        assert np.array_equal(images[0]["pixels"][number].numpy(), crop)
    assert torch.equal(scale_pixels(images[1]["pixels"])[0], data.image_tensor(1, 16))
