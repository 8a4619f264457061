import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from eval.analysis import observation
from eval.analysis.observation import GroupedVariance, to_patches
from eval.analysis.settings import ObservationSettings
from runtime.errors import UserError
from tests.eval.conftest import summary_of
from tests.prepared import prepare_sources
from tokenizer.model.codebook import GroupedCodebook

LEVELS = (0.2, 0.5, 0.8)  # mean of the patches of each code
NOISE = 0.05  # deviation of a pixel about it


def collected(vectors, groups, num_groups, parts=3):
    grouping = GroupedVariance(num_groups, vectors.shape[1])
    pairs = zip(vectors.chunk(parts), groups.chunk(parts), strict=True)
    for some, own in pairs:
        grouping.add(some, own)
    return grouping


def test_variances_are_those_of_numpy_whatever_the_batches():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.rand(50, 6, generator=generator)
    groups = torch.randint(7, (50,), generator=generator)
    grouping = collected(vectors, groups, 9)
    x, g = vectors.double().numpy(), groups.numpy()
    residual = np.concatenate([x[g == k] - x[g == k].mean(0) for k in np.unique(g)])
    assert grouping.num_used == 7
    assert grouping.overall == pytest.approx(x.var(0, ddof=1).mean(), rel=1e-12)
    assert grouping.within == pytest.approx((residual**2).sum() / (50 - 7) / 6, rel=1e-12)


def test_random_groups_have_a_ratio_of_one_even_when_many_hold_one_vector():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.rand(400, 12, generator=generator)
    ratios, singles = [], 0
    for _ in range(60):
        groups = torch.randint(300, (400,), generator=generator)
        grouping = collected(vectors, groups, 300)
        ratios.append(grouping.ratio)
        singles += int((grouping.counts == 1).sum())
    assert singles > 60 * 50  # else nothing was hard
    assert np.mean(ratios) == pytest.approx(1, abs=4 * np.std(ratios) / 60**0.5)
    assert np.std(ratios) < 0.05


def test_known_variances_are_found():
    generator = torch.Generator().manual_seed(0)
    groups = torch.arange(30_000) % 3
    noise = NOISE * torch.randn(30_000, 12, generator=generator)
    grouping = collected(torch.tensor(LEVELS)[groups].unsqueeze(1) + noise, groups, 3)
    between = np.var(LEVELS)
    assert grouping.within == pytest.approx(NOISE**2, rel=0.01)
    assert grouping.ratio == pytest.approx(NOISE**2 / (between + NOISE**2), rel=0.01)


def test_groups_of_one_vector_each_have_no_variance_to_tell():
    grouping = collected(torch.rand(4, 3), torch.arange(4), 4)
    assert math.isnan(grouping.within) and math.isnan(grouping.ratio)


def test_patches_are_cut_row_by_row():
    images = torch.rand(2, 3, 16, 24) * 2 - 1
    patches = to_patches(images, 8)
    assert patches.shape == (2, 6, 192)
    wanted = (images[1, :, 8:16, 0:8] + 1) / 2
    assert torch.allclose(patches[1, 3].view(3, 8, 8), wanted)


class KnownCodes(torch.nn.Module):
    """A tokenizer whose code is the nearest level of a patch's mean."""

    def __init__(self, config=None):
        super().__init__()
        self.config = SimpleNamespace(
            image_size=32,
            patch_size=8,
            num_semantic_codes=3,
            num_pixel_codes=2,
            num_image_codes=6,
            num_image_positions=16,
            semantic_metric="euclidean",
        )
        self.projection = torch.nn.Linear(192, 8)

    def encode(self, images):
        means = to_patches(images, 8).mean(-1, keepdim=True)
        semantic = (means - torch.tensor(LEVELS)).abs().argmin(-1)
        pixel = (means[..., 0] > torch.tensor(LEVELS)[semantic]).long()
        return SimpleNamespace(semantic=semantic, pixel=pixel, flat=semantic * 2 + pixel)

    def grid(self, images):
        return 4, 4

    def teacher_features(self, images):
        return to_patches(images, 8)

    def semantic_vectors(self, features, grid):
        return self.projection(features)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Images of 4×4 patches, each of one level and noise."""
    folder = tmp_path_factory.mktemp("levels")
    chance = np.random.default_rng(0)
    for number in range(24):
        levels = chance.choice(LEVELS, size=(4, 4, 1)).repeat(8, 0).repeat(8, 1)
        pixels = levels + NOISE * chance.standard_normal((32, 32, 3))
        Image.fromarray((pixels * 255).round().astype(np.uint8)).save(folder / f"{number:02d}.png")
    return prepare_sources(folder, tmp_path_factory.mktemp("prepared") / "data")


@pytest.fixture
def known_codes(monkeypatch):
    def load(folder, needs):
        assert needs == "encoder"  # an exported encoder half is enough
        return KnownCodes()

    monkeypatch.setattr("eval.analysis.observation.load_tokenizer", load)


def measure(data, out, **changed):
    """The summary of a measurement."""
    tokenizer = data.parent / "known"
    tokenizer.mkdir(exist_ok=True)
    (tokenizer / "config.json").write_text("{}")
    values = {"batch_size": 7, "shuffles": 4} | changed
    settings = ObservationSettings(tokenizer=tokenizer, data=str(data), out=out, **values)
    return summary_of(observation.evaluate(settings))


def test_known_codes_leave_the_noise_and_shuffled_codes_leave_all(data, known_codes, tmp_path):
    summary = measure(data, tmp_path)
    rows = summary["groupings"]
    assert summary["num_patches"] == 24 * 16
    assert rows["semantic codes"]["within_variance"] == pytest.approx(NOISE**2, rel=0.05)
    overall = summary["overall_variance"]
    assert summary["ratio"] == pytest.approx(NOISE**2 / overall, rel=0.05)
    assert summary["shuffled_ratio"] == pytest.approx(1, abs=0.02)
    assert rows["image codes"]["ratio"] <= summary["ratio"]
    assert rows["k-means of the pixels"]["ratio"] == pytest.approx(summary["ratio"], rel=0.01)
    assert summary["ratio"] < rows["k-means of an untrained encoder"]["ratio"] * 1.01


def test_the_folder_holds_summary_report_and_picture(data, known_codes, tmp_path):
    summary = measure(data, tmp_path, max_images=10)
    assert summary["num_images"] == 10
    report = (tmp_path / "report.md").read_text()
    assert f"{summary['ratio']:.2%}" in report and "10 images" in report
    assert f"Within a semantic code pixels vary {summary['ratio']:.1%} as much" in report
    page = (tmp_path / "report.html").read_text()
    assert "data:image/png;base64," in page and f"{summary['ratio']:.2%}" in page
    assert all(f"| {name} |" in report for name in summary["groupings"])
    assert Image.open(tmp_path / "patches.png").size[1] == 3 * 36  # one row for each code


def test_results_do_not_depend_on_the_batch_size(data, known_codes, tmp_path):
    one = measure(data, tmp_path / "one", batch_size=1)
    many = measure(data, tmp_path / "many", batch_size=24)
    assert one["ratio"] == pytest.approx(many["ratio"], rel=1e-9)
    assert one["shuffled_ratio"] == pytest.approx(many["shuffled_ratio"], rel=1e-9)


def test_codes_that_never_meet_are_one_sentence(data, monkeypatch, tmp_path):
    class Alone(KnownCodes):
        def encode(self, images):
            codes = super().encode(images)
            own = torch.arange(16).expand_as(codes.semantic)
            return SimpleNamespace(semantic=own, pixel=own * 0, flat=own)

    model = Alone()
    model.config.num_semantic_codes = model.config.num_image_codes = 16
    monkeypatch.setattr("eval.analysis.observation.load_tokenizer", lambda folder, needs: model)
    with pytest.raises(UserError, match="no two of them share a semantic code"):
        measure(data, tmp_path, max_images=1)


def test_shown_codes_reach_from_that_of_most_images_to_the_last_that_fills_a_row():
    codes = torch.full((100, 5), 3)  # code 3 in every image
    codes[:40, 0], codes[:16, 1], codes[:15, 2] = 0, 1, 2
    codes[-1, 1:] = 4  # many patches, but of one image
    assert observation._shown_codes(codes) == [3, 0, 1]


def test_kmeans_takes_no_more_codes_than_patches(data, known_codes, tmp_path):
    model = KnownCodes()
    model.config.num_semantic_codes = 40
    images = observation._Images(SimpleNamespace(), [0], 32, 1)
    object.__setattr__(images, "tensor", lambda indices: torch.rand(1, 3, 32, 32) * 2 - 1)
    pixels, features = observation._baselines(model, KnownCodes(), images, 0)
    assert isinstance(pixels, GroupedCodebook)
    assert pixels.codes.shape == (1, 16, 192) and features.codes.shape == (1, 16, 8)
