import json

import pytest

from data_pipelines.sources.easy_vqa import data_folder
from eval.vqa.scorers.easy_vqa import TASK, judge, question_type
from eval.vqa.scorers.task import BenchmarkQuestion, Judged
from eval.vqa.scorers.tasks import TASKS
from eval.vqa.scores import (
    constant_accuracy,
    judge_all,
    mean_score,
    question_only_accuracy,
    summarize,
)


def asked(question, *answers, key="0"):
    return BenchmarkQuestion(key, question, answers, question_type(question, answers))


@pytest.fixture(scope="module")
def official():
    """The questions of both official splits."""

    def questions(split):
        rows = json.loads((data_folder() / split / "questions.json").read_text())
        return [asked(q, a, key=f"{split}-{i}") for i, (q, a, _) in enumerate(rows)]

    return {split: questions(split) for split in ("train", "test")}


@pytest.mark.parametrize("prediction", ["teal", "Teal", "  teal\n", "TEAL "])
def test_case_and_outer_space_are_forgiven(prediction):
    assert judge(asked("what color is the circle?", "teal"), prediction)[1] == 1


@pytest.mark.parametrize("prediction", ["teal.", "a teal", "tea l", "", "blue", "teal circle"])
def test_nothing_else_is_forgiven(prediction):
    assert judge(asked("what color is the circle?", "teal"), prediction)[1] == 0


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


def truth(questions):
    return {q.question_id: q.answers[0] for q in questions}


def test_every_official_question_has_a_known_topic(official):
    types = {q.category for q in official["test"]}
    assert len(types) == 6 and not any("other" in name for name in types)


def test_groups_add_up_to_the_whole(official):
    questions = official["test"]
    said = {k: "yes" if i % 3 else v for i, (k, v) in enumerate(truth(questions).items())}
    result = summarize(TASK, judge_all(TASK, questions, said))
    for key in ("num_questions", "num_correct"):
        total = result["overall"][key]
        assert result["open"][key] + result["yes_no"][key] == total
        assert sum(group[key] for group in result["by_type"].values()) == total
    assert result["open"]["accuracy"] < 1
    low, high = result["overall"]["interval"]
    assert low < result["overall"]["accuracy"] < high
    assert result["answered_yes_share"] > 0.6


def test_true_answers_score_one(official):
    questions = official["test"]
    result = summarize(TASK, judge_all(TASK, questions, truth(questions)))
    assert result["overall"]["accuracy"] == 1


def test_question_only_baseline_is_67_percent_counted_on_the_training_split(official):
    train = [(q.question, q.answers) for q in official["train"]]
    found = question_only_accuracy(TASK, official["test"], train)
    assert found == pytest.approx(0.6700, abs=5e-5)


def test_question_only_baseline_counted_on_the_test_split_is_higher(official):
    assert question_only_accuracy(TASK, official["test"]) == pytest.approx(0.6781, abs=5e-5)


def test_always_yes_is_37_3_percent(official):
    assert len(official["test"]) == 9673
    assert constant_accuracy(TASK, official["test"], "yes") == pytest.approx(0.3733, abs=5e-5)


def test_unknown_questions_get_the_commonest_answer():
    counted = [("is there a circle?", ["no"]), ("is it red?", ["no"]), ("is it blue?", ["yes"])]
    assert question_only_accuracy(TASK, [asked("is it raining?", "no")], counted) == 1


def test_the_baseline_of_a_soft_rule_is_soft_and_of_options_a_letter():
    ten = BenchmarkQuestion("0", "what?", ("red",) * 2 + tuple("abcdefgh"))
    # "a" as an answer is an article, so cleaned away; "red" is the commonest and matches two.
    assert question_only_accuracy(TASKS["vqav2"], [ten]) == pytest.approx(0.6)
    choice = BenchmarkQuestion("0", "what?", ("B",), options=("x", "y"))
    assert question_only_accuracy(TASKS["mmbench"], [choice]) == 1


def test_groups_without_questions_have_no_accuracy():
    question = asked("is there a circle?", "yes")
    result = summarize(TASK, [Judged(question, "yes", "yes", 1.0)])
    assert result["open"]["accuracy"] is None and result["open"]["num_questions"] == 0


def test_soft_scores_have_an_interval_around_their_mean():
    found = mean_score([0.3, 0.6, 1.0, 0.0])
    assert found["accuracy"] == pytest.approx(0.475) and found["num_correct"] == pytest.approx(1.9)
    assert found["interval"][0] < 0.475 < found["interval"][1]
