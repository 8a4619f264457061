import json

import pytest

from data_pipelines.easy_vqa import data_folder
from eval.vqa_scoring import (
    always_yes_accuracy,
    is_correct,
    question_only_accuracy,
    question_type,
    score,
)


def row(question, answer, prediction, question_id="0"):
    return {
        "question_id": question_id,
        "record_id": "0",
        "question": question,
        "answers": [answer],
        "prediction": prediction,
    }


@pytest.fixture(scope="module")
def official():
    """Both official splits as rows whose prediction is the truth."""

    def rows(split):
        questions = json.loads((data_folder() / split / "questions.json").read_text())
        return [row(q, a, a, f"{split}-{i}") for i, (q, a, _) in enumerate(questions)]

    return {split: rows(split) for split in ("train", "test")}


@pytest.mark.parametrize("prediction", ["teal", "Teal", "  teal\n", "TEAL "])
def test_case_and_outer_space_are_forgiven(prediction):
    assert is_correct(row("what color is the circle?", "teal", prediction))


@pytest.mark.parametrize("prediction", ["teal.", "a teal", "tea l", "", "blue", "teal circle"])
def test_nothing_else_is_forgiven(prediction):
    assert not is_correct(row("what color is the circle?", "teal", prediction))


@pytest.mark.parametrize(
    ("question", "answer", "expected"),
    [
        ("what color is the shape?", "teal", "open, color"),
        ("what is the color of the circle?", "red", "open, color"),
        ("what is the blue shape?", "circle", "open, shape"),
        ("what shape is present?", "circle", "open, shape"),
        ("is there a blue shape?", "yes", "yes/no, color"),
        ("is a triangle present?", "no", "yes/no, shape"),
        ("is no blue shape present?", "yes", "yes/no with negation, color"),
        ("does the image not contain a circle?", "no", "yes/no with negation, shape"),
        ("who painted this?", "nobody", "open, other"),
    ],
)
def test_question_type_tells_form_and_topic(question, answer, expected):
    assert question_type(question, [answer]) == expected


def test_every_official_question_has_a_known_topic(official):
    types = score(official["test"])["by_type"]
    assert len(types) == 6 and not any("other" in name for name in types)


def test_groups_add_up_to_the_whole(official):
    rows = [dict(r, prediction="yes") if i % 3 else r for i, r in enumerate(official["test"])]
    result = score(rows)
    for key in ("num_questions", "num_correct"):
        total = result["overall"][key]
        assert result["open"][key] + result["yes_no"][key] == total
        assert sum(group[key] for group in result["by_type"].values()) == total
    assert result["open"]["accuracy"] < 1 < len(rows)
    low, high = result["overall"]["interval"]
    assert low < result["overall"]["accuracy"] < high


def test_true_answers_score_one(official):
    assert score(official["test"])["overall"]["accuracy"] == 1


def test_question_only_baseline_is_67_percent_counted_on_the_training_split(official):
    train = [(r["question"], r["answers"]) for r in official["train"]]
    assert question_only_accuracy(official["test"], train) == pytest.approx(0.6700, abs=5e-5)


def test_question_only_baseline_counted_on_the_test_split_is_higher(official):
    assert question_only_accuracy(official["test"]) == pytest.approx(0.6781, abs=5e-5)


def test_always_yes_is_37_3_percent(official):
    assert len(official["test"]) == 9673
    assert always_yes_accuracy(official["test"]) == pytest.approx(0.3733, abs=5e-5)


def test_unknown_questions_get_the_commonest_answer():
    rows = [row("is it raining?", "no", "")]
    counted = [("is there a circle?", ["no"]), ("is it red?", ["no"]), ("is it blue?", ["yes"])]
    assert question_only_accuracy(rows, counted) == 1


def test_groups_without_questions_have_no_accuracy():
    result = score([row("is there a circle?", "yes", "yes")])
    assert result["open"]["accuracy"] is None and result["open"]["num_questions"] == 0


def test_an_empty_set_is_refused():
    with pytest.raises(ValueError, match="no answers"):
        score([])


def test_a_question_answered_twice_is_refused():
    with pytest.raises(ValueError, match="more than once"):
        score([row("is it red?", "yes", "yes"), row("is it red?", "yes", "no")])
