import json

import numpy as np
import pytest
import torch
from PIL import Image

from data_pipelines.images import open_image, to_tensor
from data_pipelines.sources.easy_vqa import data_folder
from eval.measures.image_scores import image_scores
from eval.reconstruction import task as reconstruction
from runtime.errors import UserError
from runtime.rank_group import RankGroup
from tests.eval.conftest import FakeTokenizer
from tokenizer.losses.image_quality import MAX_PSNR, image_psnr, image_ssim, to_levels


def test_psnr_of_a_known_error():
    target = torch.full((2, 3, 16, 16), 100.0)
    levels = target.clone()
    levels[0] += 5  # mean squared error 25
    psnr = image_psnr(levels, target)
    assert psnr[0].item() == pytest.approx(10 * np.log10(255**2 / 25), abs=1e-4)
    assert psnr[1].item() == MAX_PSNR


def test_pooled_psnr_is_the_psnr_of_the_mean_error():
    target = torch.zeros(2, 3, 16, 16)
    levels = torch.stack([target[0] + 2, target[1] + 10])
    pooled = reconstruction.pooled_psnr(image_psnr(levels, target).tolist())
    assert pooled == pytest.approx(10 * np.log10(255**2 / ((4 + 100) / 2)))


def test_ssim_of_equal_images_is_one():
    images = torch.rand(3, 3, 32, 32) * 255
    assert image_ssim(images, images).tolist() == pytest.approx([1] * 3)


def test_levels_are_what_a_saved_png_holds():
    images = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])
    assert to_levels(images).tolist() == [0, 0, 128, 255, 255]


def test_mean_image_of_the_official_test_split_gives_15_4_db_and_14_2_db_pooled():
    class Official:
        def __len__(self):
            return 1000

        def image_tensor(self, index, size):
            return to_tensor(open_image(data_folder() / "test" / "images" / f"{index}.png"))

    dataset = Official()
    mean = reconstruction._mean_image(dataset, 64, 250, RankGroup())
    scores = [
        image_psnr(mean.expand_as(images), to_levels(images))
        for _, images in reconstruction._batches(dataset, 64, 250, range(1000))
    ]
    scores = torch.cat(scores).tolist()
    assert np.mean(scores) == pytest.approx(15.356, abs=0.01)
    assert reconstruction.pooled_psnr(scores) == pytest.approx(14.220, abs=0.01)


def test_results_do_not_depend_on_the_batch_size(tmp_path, evaluations):
    one = evaluations.reconstruction(tmp_path / "one", batch_size=1)
    many = evaluations.reconstruction(tmp_path / "many", batch_size=64)
    assert one.keys() == many.keys()
    for name, value in one.items():
        assert value == (pytest.approx(many[name]) if isinstance(value, float) else many[name])


def test_saved_files_agree_with_the_summary(tmp_path, evaluations):
    summary = evaluations.reconstruction(tmp_path, batch_size=16)
    rows = [json.loads(line) for line in (tmp_path / "per_image.jsonl").read_text().splitlines()]
    assert len(rows) == summary["num_images"] == 40
    assert np.mean([row["psnr"] for row in rows]) == pytest.approx(summary["psnr"])

    with np.load(tmp_path / "codes.npz") as codes:
        assert codes["pixel_counts"].shape == (64, 4)
        assert (codes["pixel_counts"].sum(1) == codes["semantic_counts"]).all()
        assert codes["semantic_counts"].sum() == 40 * 64
        assert codes["semantic"].shape == codes["pixel"].shape == (12, 8, 8)

    # The saved pair is the pair that was measured.
    row = next(row for row in rows if row.get("pair") == 3)
    pair = [
        torch.tensor(np.array(Image.open(tmp_path / "pairs" / f"03_{name}.png"))).float()
        for name in ("reconstruction", "real")
    ]
    levels, target = (pixels.permute(2, 0, 1).unsqueeze(0) for pixels in pair)
    assert image_psnr(levels, target).item() == pytest.approx(row["psnr"])


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(6):
        Image.effect_noise((80, 70 + number), 60).convert("RGB").save(folder / f"{number}.png")
    return folder


def test_a_folder_is_measured_by_every_score_that_its_size_allows(tmp_path, pictures, evaluations):
    summary = evaluations.reconstruction(
        tmp_path / "out",
        data=str(pictures),
        network=["efficientnet-lite0"],
        distance=["kid"],
        perceptual="efficientnet-lite0",
    )
    assert summary["crop"].startswith("ADM") and summary["num_images"] == 6
    assert set(summary["scores"]) == {
        "PSNR, dB",
        "SSIM",
        "perceptual distance (efficientnet-lite0)",
        "KID (EfficientNet-Lite0)",
    }
    assert "176" in summary["ms_ssim_absent"]
    low, high = summary["scores"]["PSNR, dB"]["interval"]
    assert low < summary["psnr"] < high
    page = (tmp_path / "out" / "report.html").read_text()
    assert "data:image/png;base64," in page and "not comparable" in page
    assert "Real beside reconstruction" in (tmp_path / "out" / "report.md").read_text()


def test_the_worst_of_all_images_are_shown_first(tmp_path, evaluations):
    evaluations.reconstruction(tmp_path, batch_size=16)
    rows = [json.loads(line) for line in (tmp_path / "per_image.jsonl").read_text().splitlines()]
    rest = sorted(row["psnr"] for row in rows if "pair" not in row)
    worst = sorted((row["worst"], row["psnr"]) for row in rows if "worst" in row)
    assert worst == list(enumerate(rest[: reconstruction.NUM_WORST])) and len(worst) == 6
    assert len(list((tmp_path / "pairs").glob("worst-*_real.png"))) == 6
    page = (tmp_path / "report.html").read_text()
    ids = [row["record_id"] for row in sorted(rows, key=lambda row: row["psnr"])]
    assert page.index(f"<b>{ids[0]}</b>") == page.index("<b>")  # the very worst is the first


def test_worst_pairs_are_those_of_all_ranks(tmp_path):
    psnrs = [9.0, 3, 7, 1, 8, 2, 6, 4, 5, 0]
    images = torch.arange(10.0).view(10, 1, 1, 1).expand(10, 3, 4, 4) / 5 - 1
    rows = [{"psnr": value} for value in psnrs]
    rows[9]["pair"] = 0  # shown anyway
    ranks = [reconstruction.WorstPairs(3) for _ in range(2)]
    for index in range(9):
        ranks[index % 2].offer(index, psnrs[index], images[index], -images[index])
    for rank in ranks:
        rank.save(rows, tmp_path)
    assert {i: row["worst"] for i, row in enumerate(rows) if "worst" in row} == {3: 0, 5: 1, 1: 2}
    for place, index in enumerate((3, 5, 1)):
        saved = Image.open(tmp_path / f"worst-{place:02d}_real.png").getpixel((0, 0))
        assert saved[0] == pytest.approx(index / 5 * 127.5, abs=1)


def test_fewer_images_than_dimensions_are_refused_before_the_work(tmp_path, pictures, evaluations):
    with pytest.raises(UserError, match="--distance kid"):
        evaluations.reconstruction(
            tmp_path / "out", data=str(pictures), network=["efficientnet-lite0"]
        )
    assert not (tmp_path / "out").exists()


def test_scores_of_large_images_are_those_of_each_alone(monkeypatch):
    images = torch.rand(5, 3, 24, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    whole = image_scores(images, -images)
    monkeypatch.setattr("eval.measures.image_source.PIXELS_AT_ONCE", 2 * 24 * 24)
    assert image_scores(images, -images) == {k: pytest.approx(v) for k, v in whole.items()}


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"batch_size": 10**9}, "less than or equal to 1024"),
        ({"batch_size": 0}, "greater than 0"),
        ({"max_images": 0}, "greater than 0"),
        ({"resolution": -64}, "greater than 0"),
    ],
)
def test_sizes_without_sense_are_refused(tmp_path, evaluations, settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        evaluations.reconstruction(tmp_path / "out", **settings)


def test_a_resolution_of_too_many_positions_is_refused(tmp_path, evaluations, monkeypatch):
    model = FakeTokenizer("decoder")
    model.config.patch_size = 8
    monkeypatch.setattr("eval.reconstruction.task.load_tokenizer", lambda folder: model)
    with pytest.raises(UserError, match="take at most 1024"):
        evaluations.reconstruction(tmp_path / "out", resolution=8 * 10**6)
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_that_gives_no_numbers_is_refused_and_the_image_named(
    tmp_path, evaluations, monkeypatch
):
    class Diverged(FakeTokenizer):
        def decode(self, codes):
            images = super().decode(codes)
            images[1, 0, 3, 3] = float("nan")
            return images

    monkeypatch.setattr("eval.reconstruction.task.load_tokenizer", Diverged)
    with pytest.raises(UserError, match=r"reconstruction of easy-vqa-test-.*1 holds values that"):
        evaluations.reconstruction(tmp_path / "out")
    assert not (tmp_path / "out" / "summary.json").exists()


def test_ms_ssim_of_images_that_are_large_enough():
    images = torch.rand(2, 3, 176, 176, generator=torch.Generator().manual_seed(0)) * 2 - 1
    noisy = (images + 0.3 * torch.randn(images.shape)).clamp(-1, 1)
    scores = image_scores(images, noisy)
    assert all(0.3 < value < 0.99 for value in scores["ms_ssim"])
    assert image_scores(images, images)["ms_ssim"] == pytest.approx([1, 1])
