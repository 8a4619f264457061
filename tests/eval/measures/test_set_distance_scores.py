"""Set distances by name: whole sets, groups in them, and how uncertain they are shown to be."""

import pytest
import torch

from eval.analysis.compare import compare
from eval.analysis.settings import CompareSettings
from eval.measures.feature_networks import FeatureNetwork
from eval.measures.set_distance import (
    FeatureSums,
    SetDistances,
    frechet_distance,
    kernel_distance,
)
from eval.reports.page import score_table
from runtime.errors import UserError
from runtime.files import write_json

DIM = 12
NETWORK = FeatureNetwork("pixels", "pixels", DIM, "f0", lambda images: images.flatten(1))


def two_sets(num):
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.rand(num, 3, 2, 2, generator=generator) * 2 - 1 for _ in range(2))
    return ours, theirs**3


def kid_of(num_ours, num_theirs=None):
    ours, theirs = two_sets(max(num_ours, num_theirs or 0))
    distances = SetDistances([NETWORK], ["kid"])
    distances.add(ours[:num_ours], theirs[: num_theirs or num_ours])
    return distances.scores()["KID (pixels)"]


def test_one_estimate_over_all_images_has_no_spread_wherever_it_is_shown(tmp_path):
    score = kid_of(60)
    assert score["std"] is None and score["rule"].startswith("all images at once")
    shown = [str(score_table({"KID (pixels)": score}).rows)]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        summary = {"task": "reconstruction", "scores": {"KID (pixels)": score}}
        write_json(tmp_path / name / "summary.json", summary)
    compare(CompareSettings(results=[tmp_path / "a", tmp_path / "b"], out=tmp_path / "out"))
    shown.append((tmp_path / "out" / "report.md").read_text())
    for text in shown:
        assert "all images at once" in text
        assert "subsets" not in text and "±" not in text and "spread" not in text


def test_several_estimates_have_a_spread_and_say_over_what():
    score = kid_of(60, 50)
    assert score["std"] > 0
    spread = score_table({"": score}).rows[0][2]
    assert spread == f"spread {score['std']:.3g} over 100 subsets of 50"


def test_groups_have_distances_of_their_own_and_kid_where_they_are_small():
    ours, theirs = two_sets(60)
    groups = {"animals": slice(0, 25), "food": slice(25, 60)}
    distances = SetDistances([NETWORK], ["frechet"])
    distances.add(ours[:3], None)  # of no group
    for name, part in groups.items():
        for start in range(part.start, part.stop, 10):
            stop = min(start + 10, part.stop)
            distances.add(ours[start:stop], None, name)
        distances.add(None, theirs[part][: 9 if name == "animals" else None], name)
    found = distances.group_scores()
    levels = [((images + 1) * 127.5).round() / 127.5 - 1 for images in (ours, theirs)]
    first, second = (images.flatten(1) for images in levels)
    # Nine images are fewer than the twelve dimensions.
    assert list(found["animals"]) == ["KID (pixels)"]
    expected, _ = kernel_distance(first[:25], second[:9])
    assert found["animals"]["KID (pixels)"]["value"] == pytest.approx(expected)
    assert found["animals"]["KID (pixels)"]["num_images"] == [25, 9]
    assert list(found["food"]) == ["Fréchet distance (pixels)"]
    expected = frechet_distance(FeatureSums.of(first[25:]), FeatureSums.of(second[25:]))
    assert found["food"]["Fréchet distance (pixels)"]["value"] == pytest.approx(expected)
    whole = distances.scores()["Fréchet distance (pixels)"]
    assert whole["num_images"] == [63, 44]


def test_too_small_sets_are_refused_before_the_work():
    SetDistances([NETWORK], ["kid"]).require({"ours": 2, "theirs": 2})
    SetDistances([], ["kid"]).require({"ours": 1})
    with pytest.raises(UserError, match="at least 2 images on either side, but there are 4 and 1"):
        SetDistances([NETWORK], ["frechet", "kid"]).require({"ours": 4, "theirs": 1})


def test_a_group_of_one_image_is_refused():
    ours, theirs = two_sets(3)
    distances = SetDistances([NETWORK], ["kid"])
    distances.add(ours[:1], theirs, "animals")
    with pytest.raises(UserError, match="at least 2 images"):
        distances.group_scores()
