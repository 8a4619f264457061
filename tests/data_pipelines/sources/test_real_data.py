"""Real pictures from the packages that carry them, read end to end."""

import json

import pytest
import torch

from data_pipelines.loading.dataset import PreparedDataset
from data_pipelines.loading.inspect_page import write_page
from data_pipelines.loading.stream import CaptionedImage, Stream, StreamSource
from data_pipelines.loading.transforms import ImageTransform, Normalisation, two_views
from data_pipelines.prepare.run import prepare


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
    out = prepare(
        [f"folder:{root},licence=as scikit-image says", "easy-vqa-test"],
        tmp_path / "out", shard_size=400, num_workers=2, test_share=0.2, drop_duplicates=True,
    )  # fmt: skip
    sides = [PreparedDataset(out / side) for side in ("train", "test")]
    rejects = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
    assert sum(map(len, sides)) + len(rejects) == found + 1000
    assert all("the same as that of" in entry["reason"] for entry in rejects)
    assert 0.1 < len(sides[1]) / (found + 1000) < 0.3
    assert sides[0].manifest["licences"][0]["licence"] == "as scikit-image says"

    source = StreamSource("all", sides[0], epochs=1)
    make = CaptionedImage(ImageTransform(32, crop="random", flip=True), caption_dropout=0.1)
    imagenet = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    seen = []
    for batch in Stream([source], make, 64, num_workers=1):
        teacher, pixels = two_views(batch["pixels"], imagenet)
        assert pixels.shape[1:] == (3, 32, 32) and pixels.abs().max() <= 1
        assert torch.equal(imagenet.invert(teacher), batch["pixels"])
        seen += batch["record_id"]
    assert sorted(seen) == sorted(sides[0].ids)
    page = write_page(out / "train").read_text()
    assert page.count("data:image/jpeg;base64,") == 48
