import multiprocessing
import os

import numpy as np
import pytest
import torch
from torch import nn

from eval.measures.feature_networks import FeatureNetwork
from eval.measures.set_distance import (
    FeatureSums,
    SetDistances,
    frechet_distance,
    in_order,
    kernel_distance,
    kernel_rule,
)
from runtime.errors import UserError
from runtime.rank_group import RankGroup
from tests.ports import free_port


def gaussian(mean, covariance, num=400, seed=0):
    """Features whose sample mean and covariance are exactly the given ones."""
    draw = np.random.default_rng(seed).standard_normal((num, len(mean)))
    draw -= draw.mean(0)
    draw = draw @ np.linalg.inv(np.linalg.cholesky(np.cov(draw.T))).T
    return torch.from_numpy(draw @ np.linalg.cholesky(covariance).T + mean)


def test_frechet_distance_of_gaussians_is_the_closed_form():
    rng = np.random.default_rng(1)
    # Commuting covariances: the root of their product is known on the diagonal.
    basis = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    first, second = rng.uniform(0.5, 4, 6), rng.uniform(0.5, 4, 6)
    means = rng.standard_normal((2, 6))
    expected = ((means[0] - means[1]) ** 2).sum() + ((first**0.5 - second**0.5) ** 2).sum()
    sums = [
        FeatureSums.of(gaussian(mean, basis * spectrum @ basis.T, seed=seed))
        for seed, (mean, spectrum) in enumerate(zip(means, (first, second), strict=True))
    ]
    assert frechet_distance(*sums) == pytest.approx(expected, rel=1e-9)
    assert expected > 1


def test_frechet_distance_of_gaussians_that_do_not_commute():
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(2)
    covariances = [np.cov(rng.standard_normal((5, 40))) for _ in range(2)]
    root = sqrtm(covariances[0] @ covariances[1]).real
    expected = np.trace(covariances[0] + covariances[1] - 2 * root) + 5 * 0.25
    sums = [
        FeatureSums.of(gaussian(np.full(5, mean), covariance, seed=3))
        for mean, covariance in zip((0.0, 0.5), covariances, strict=True)
    ]
    assert frechet_distance(*sums) == pytest.approx(expected, rel=1e-8)


class Flatten(nn.Module):
    """What torchmetrics calls a feature network: here the pixels are the features."""

    num_features = 12

    def forward(self, images):
        return images.flatten(1).float()


def two_sets(num=60):
    generator = torch.Generator().manual_seed(0)
    ours = torch.rand(num, 3, 2, 2, generator=generator)
    theirs = torch.rand(num, 3, 2, 2, generator=generator) ** 2
    return ours, theirs


def test_frechet_distance_equals_that_of_torchmetrics():
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=Flatten(), normalize=True)
    metric.set_dtype(torch.float64)
    ours, theirs = two_sets()
    metric.update(ours, real=True)
    metric.update(theirs, real=False)
    sets = [FeatureSums.of(images.flatten(1)) for images in (ours, theirs)]
    found = frechet_distance(*sets)
    assert found == pytest.approx(float(metric.compute()), rel=1e-6)
    assert found > 0.1


def test_kernel_distance_equals_that_of_torchmetrics():
    from torchmetrics.image.kid import KernelInceptionDistance

    ours, theirs = two_sets()
    metric = KernelInceptionDistance(
        feature=Flatten(), subsets=1, subset_size=len(ours), normalize=True
    )
    metric.update(ours, real=True)
    metric.update(theirs, real=False)
    found, deviation = kernel_distance(ours.flatten(1), theirs.flatten(1))
    assert found == pytest.approx(float(metric.compute()[0]), rel=1e-4)
    assert deviation is None and found > 0  # one estimate has no spread


def test_the_rule_of_kid_says_whether_there_are_subsets():
    assert kernel_rule(1000, 1000).startswith("all images at once;")
    for sizes in ((1001, 1001), (500, 600), (50000, 1000)):
        assert kernel_rule(*sizes).startswith(f"100 subsets of {min(1000, *sizes):,};")
    ours, theirs = (images.flatten(1) for images in two_sets())
    assert kernel_distance(ours, theirs, 20, 5)[1] > 0
    assert kernel_distance(ours, theirs[:50])[1] > 0  # of the larger set others each time


def test_equal_sets_are_no_distance_apart():
    ours = two_sets()[0].flatten(1)
    assert frechet_distance(FeatureSums.of(ours), FeatureSums.of(ours)) < 1e-9
    # Unbiased on halves of one set: near zero, and of either sign.
    halves = [kernel_distance(ours[::2], ours[1::2], 20, 30, seed)[0] for seed in range(4)]
    assert max(map(abs, halves)) < 0.05


def test_sums_add_up_whatever_the_parts():
    features = two_sets()[0].flatten(1)
    whole = FeatureSums.of(features)
    parts = FeatureSums.of(features[:0])
    for start in range(0, 60, 7):
        parts = parts + FeatureSums.of(features[start : start + 7])
    assert parts.count == 60
    torch.testing.assert_close(parts.covariance, whole.covariance, rtol=1e-12, atol=0)


def test_features_of_ranks_come_back_in_the_order_of_the_images():
    features = torch.arange(20.0).view(10, 2)
    assert torch.equal(in_order([features[rank::3] for rank in range(3)]), features)


def test_fewer_images_than_dimensions_are_refused_and_kid_is_proposed():
    network = FeatureNetwork("efficientnet-lite0", "EfficientNet-Lite0", 1280, "f0", torch.flatten)
    distances = SetDistances([network], ["frechet"])
    with pytest.raises(UserError, match=r"500 images.*1,280 dimensions.*1,281.*kid"):
        distances.require({"The set": 500})
    distances.require({"The set": 1281})


def test_a_single_image_has_no_kernel_distance():
    with pytest.raises(UserError, match="at least 2"):
        kernel_distance(torch.zeros(1, 3), torch.zeros(5, 3))


def _rank(rank, world_size, port, folder):
    torch.set_num_threads(1)  # a fork of a process with threads must not use its pool
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    network = FeatureNetwork("pixels", "pixels", 12, "f0", lambda images: images.flatten(1))
    with RankGroup() as ranks:
        distances = SetDistances([network], ["frechet", "kid"])
        ours, theirs = (images[rank::world_size].split(9) for images in two_sets())
        for pair in zip(ours, theirs, strict=True):
            distances.add(*pair)
        found = distances.scores(ranks)
    torch.save(found, f"{folder}/{world_size}-{rank}")


@pytest.mark.slow
def test_three_ranks_find_what_one_finds(tmp_path):
    ports = {1: free_port(), 3: free_port()}
    # Forked, which spares each rank the import of torch.
    processes = [
        multiprocessing.get_context("fork").Process(
            target=_rank, args=(rank, world_size, ports[world_size], tmp_path)
        )
        for world_size in (1, 3)
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(600)
        assert [process.exitcode for process in processes] == [0] * 4
    finally:
        for process in processes:
            process.kill()
    one = torch.load(tmp_path / "1-0")
    frechet, kernel = one.values()
    assert frechet["num_images"] == [60, 60] and frechet["value"] > 0.001
    for rank in range(3):
        its_frechet, its_kernel = torch.load(tmp_path / f"3-{rank}").values()
        assert its_frechet["num_images"] == [60, 60]  # all of them, on every rank
        assert its_frechet["value"] == pytest.approx(frechet["value"], rel=1e-10)
        assert its_kernel == kernel
