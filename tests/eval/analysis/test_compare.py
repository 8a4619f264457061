import json

import pytest

from eval.analysis import compare as command
from eval.analysis.compare import scores_of
from eval.analysis.settings import CompareSettings
from eval.measures.conditions import conditions_of, differences
from runtime.errors import UserError


def compare(paths, out):
    """The table of the command's page."""
    command.compare(CompareSettings(results=paths, out=out))
    return command.side_by_side(paths)[0].sections[0]


RESULT = {
    "task": "reconstruction",
    "num_images": 1000,
    "resolution": 64,
    "crop": "ADM",
    "data_fingerprint": "abc",
    "psnr_rule": "mean",
    "feature_networks": ["EfficientNet-Lite0"],
    "scores": {
        "PSNR, dB": {"value": 28.0, "interval": [27.9, 28.1]},
        "KID (EfficientNet-Lite0)": {"value": 0.5, "std": 0.1, "network_fingerprint": "f0"},
    },
}


@pytest.fixture
def save(tmp_path):
    def write(name, **changes):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "summary.json").write_text(json.dumps(RESULT | changes))
        return folder

    return write


def better():
    return {"scores": RESULT["scores"] | {"PSNR, dB": {"value": 29.0, "interval": [28.9, 29.1]}}}


def test_results_measured_alike_stand_side_by_side(save, tmp_path):
    table = compare([save("a"), save("b", **better())], tmp_path / "out")
    assert table.header == ("Score", "a", "b", "Reading")
    assert table.rows[0] == ("PSNR, dB", "28 [27.9, 28.1]", "29 [28.9, 29.1]", "apart")
    assert table.rows[1][1:] == ("0.5 ± 0.1", "0.5 ± 0.1", "no interval")
    assert "28.9" in (tmp_path / "out" / "report.html").read_text()
    assert "28.9" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize("scores", [3, {"PSNR, dB": 3}, {"PSNR, dB": {"value": "much"}}])
def test_scores_that_no_evaluation_wrote_are_one_sentence(save, tmp_path, scores):
    with pytest.raises(UserError, match="not as semhitok eval writes them"):
        compare([save("a", scores=scores), save("b", scores=scores)], tmp_path / "out")


def test_touching_intervals_decide_nothing(save, tmp_path):
    kid = {k: v for k, v in RESULT["scores"].items() if k != "PSNR, dB"}
    near = {"scores": {"PSNR, dB": {"value": 28.15, "interval": [28.05, 28.25]}} | kid}
    assert compare([save("a"), save("b", **near)], tmp_path / "out").rows[0][-1] == "within chance"


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("data_fingerprint", "xyz", "set of images"),
        ("psnr_rule", "pooled", "rule of PSNR"),
        ("rule", "exact match", "rule"),
        ("split", "val", "split"),
        ("feature_networks", ["Inception-v3"], "feature network"),
        ("resolution", 256, "resolution"),
        ("crop", "stretch", "crop"),
        ("num_images", 999, "number of images"),
        ("task", "vqa", "task"),
        ("judge", "ourselves", "judge"),
        ("prompts_rewritten", True, "rewriting"),
        ("questions_fingerprint", "of another split", "questions"),
        ("reference_fingerprint", "other photographs", "set of real images"),
    ],
)
def test_what_is_not_comparable_is_refused_by_name(save, tmp_path, key, value, named):
    with pytest.raises(UserError, match=named) as refused:
        compare([save("a"), save("b", **{key: value})], tmp_path / "out")
    assert str(value) in str(refused.value) or str(value[0]) in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_other_weights_of_a_network_of_the_same_name_are_refused():
    other = json.loads(json.dumps(RESULT))
    other["scores"]["KID (EfficientNet-Lite0)"]["network_fingerprint"] = "f1"
    assert differences([RESULT, other]) == ["weights of the feature network (['f0'] and ['f1'])"]
    assert differences([RESULT, RESULT, RESULT]) == []


def test_accuracies_of_questions_are_found_with_their_intervals():
    summary = {
        "task": "vqa",
        "overall": {"accuracy": 0.9, "interval": [0.8, 0.95]},
        "by_type": {"open, color": {"accuracy": 0.5, "interval": [0.4, 0.6]}},
        "question_only_baseline": 0.67,
    }
    assert scores_of(summary) == {
        "accuracy, overall": {"value": 0.9, "interval": [0.8, 0.95]},
        "accuracy, open, color": {"value": 0.5, "interval": [0.4, 0.6]},
        "question only baseline": {"value": 0.67, "interval": None},
    }


def test_one_result_a_quickstart_and_an_empty_folder_are_refused(save, tmp_path):
    one = save("a")
    with pytest.raises(ValueError, match="at least 2"):
        compare([one], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no result"):
        compare([one, tmp_path / "empty"], tmp_path / "out")
    (tmp_path / "empty" / "summary.json").write_text('{"vqa.accuracy": 0.9}')
    with pytest.raises(UserError, match="not of a quickstart"):
        compare([one, tmp_path / "empty"], tmp_path / "out")


def questions(folder, **changes):
    folder.mkdir()
    summary = {
        "task": "pope",
        "rule": "POPE",
        "decoding": "greedy, at most 32 new tokens",
        "num_questions": 3000,
        "questions_fingerprint": "of random",
        "overall": {"accuracy": 0.8, "interval": [0.79, 0.81]},
        "figures": {"mean_f1": 0.75, "splits_missing": ["popular"], "num_items": 3},
    }
    (folder / "summary.json").write_text(json.dumps(summary | changes))
    return folder


def test_splits_of_as_many_questions_are_not_one_set(tmp_path):
    """POPE's three have 3,000 each, and a file of questions has no fingerprint of images."""
    one = questions(tmp_path / "one")
    other = questions(tmp_path / "other", questions_fingerprint="of popular")
    with pytest.raises(UserError, match=r"questions \(of random and of popular\)"):
        compare([one, other], tmp_path / "out")


def test_another_system_of_unknown_decoding_stands_beside_ours_and_that_is_said(tmp_path):
    ours = questions(tmp_path / "ours")
    theirs = questions(
        tmp_path / "llava",
        decoding="not known: answers of another system",
        overall={"accuracy": 0.85, "interval": [0.84, 0.86]},
    )
    table = compare([theirs, ours], tmp_path / "out")
    assert table.rows[0][-1] == "apart"
    assert ("mean f1", "0.75", "0.75", "no interval") in table.rows
    page = (tmp_path / "out" / "report.md").read_text()
    assert "not known: decoding of llava" in page
    weighed = questions(tmp_path / "weighed", decoding="likeliest letter")
    with pytest.raises(UserError, match="decoding"):
        compare([theirs, ours, weighed], tmp_path / "out")


def test_complete_evaluations_are_compared_part_by_part():
    parts = {
        "vqa": conditions_of({"questions_fingerprint": "a", "num_questions": 5, "rule": "exact"}),
        "reconstruction": conditions_of(RESULT),
    }
    whole = {"task": "all", "scores": {}, "parts": parts}
    assert differences([whole, whole]) == []
    other = json.loads(json.dumps(whole))
    other["parts"]["vqa"]["questions_fingerprint"] = "b"
    other["parts"]["reconstruction"]["network_fingerprints"] = ["f1"]
    assert differences([whole, other]) == [
        "questions (a and b) of vqa",
        "weights of the feature network (['f0'] and ['f1']) of reconstruction",
    ]
    assert differences([whole, {"task": "all", "scores": {}}])  # of before parts were kept
