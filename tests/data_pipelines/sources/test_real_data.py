"""Real pictures from the packages that carry them, read end to end."""

import json

import pytest
from torch.utils.data import DataLoader

from data_pipelines.images import scale_pixels
from data_pipelines.loading.dataset import PreparedDataset
from data_pipelines.loading.image_dataset import PreparedImages
from eval.analysis.data_page import inspect_data
from eval.analysis.settings import InspectSettings
from tests.prepared import prepare_sources


@pytest.mark.slow
def test_photographs_and_easy_vqa_become_batches(tmp_path):
    skimage = pytest.importorskip("skimage.data")
    from PIL import Image

    root = tmp_path / "photos"
    root.mkdir()
    names = ("astronaut", "coffee", "chelsea", "camera", "coins", "moon", "rocket", "brick")
    found = 0
    for name in names:
        try:
            pixels = getattr(skimage, name)()
        except Exception:  # some are downloaded, and there may be no network
            continue
        Image.fromarray(pixels).save(root / f"{name}.jpg", quality=92)
        (root / f"{name}.txt").write_text(f"the picture called {name}\n")
        found += 1
    assert found >= 3
    out = prepare_sources([f"folder:{root},licence=as scikit-image says", "easy-vqa-test"],
        tmp_path / "out", shard_size=400, num_workers=2, test_fraction=0.2, drop_duplicates=True,
    )  # fmt: skip
    sides = [PreparedDataset(out / side) for side in ("train", "test")]
    rejects = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
    assert sum(map(len, sides)) + len(rejects) == found + 1000
    assert all("the same as that of" in entry["reason"] for entry in rejects)
    assert 0.1 < len(sides[1]) / (found + 1000) < 0.3
    assert sides[0].manifest["licences"][0]["licence"] == "as scikit-image says"

    loader = DataLoader(PreparedImages(sides[0], 32, num_crops=2), 64, num_workers=1)
    batches = [scale_pixels(batch["pixels"]) for batch in loader]
    assert sum(map(len, batches)) == len(sides[0])
    for images in batches:
        assert images.shape[1:] == (2, 3, 32, 32) and images.abs().max() <= 1
    page = inspect_data(InspectSettings(data=out / "train")).read_text()
    assert page.count("data:image/png;base64,") == 48
