"""POPE and MME: what is read in an answer, and what is made of all of them."""

import pytest

from eval.vqa.scorers import mme, pope
from eval.vqa.scorers.task import BenchmarkQuestion
from eval.vqa.scores import judge_all


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Yes", "yes"), ("No", "no"), ("no", "no"), ("No,", "no"),
        ("No, there is a dog", "no"),  # the comma goes, so "No" is a word
        ("No. Yes.", "no"), ("Yes. No.", "yes"),  # the first sentence alone
        ("Not sure", "yes"), ("not sure", "no"),  # "not" counts, "Not" does not
        ("I do not see one", "no"), ("There is no dog", "no"),
        ("There isn't a dog", "yes"), ("NO", "yes"), ("nO", "yes"), ("Nope", "yes"),
        ("none", "yes"), ("knot", "yes"), ("", "yes"), ("maybe", "yes"),
        ("no!", "yes"), ("No\nthere is none", "yes"), ("Yes, no doubt", "no"), (" No", "no"),
        (".No", "yes"), ("no?", "yes"),
    ],
)  # fmt: skip
def test_pope_reads_what_its_script_reads(text, said):
    assert pope.read_yes_no(text) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Yes", "yes"), ("no.", "no"), ("Y", "yes"), ("n", "no"), ("N.", "no"), (" yes \n", "yes"),
        ("Yes, it is", "yes"), ("No, it is not", "no"), ("not sure", "no"), ("note", "no"),
        ("I say yes", "other"), ("x", "other"), ("", "other"), ("maybe", "other"),
        ("oh no", "other"), ("a no", "no"), ("y.e.s", "yes"), ("yesno", "yes"), ("Nyes", "yes"),
    ],
)  # fmt: skip
def test_mme_reads_what_its_script_reads(text, said):
    assert mme.read_yes_no(text) == said


def pope_set(*cases, split="random"):
    """Judged answers from (label, prediction)."""
    questions = [
        BenchmarkQuestion(f"{split}-{i}", "Is there a dog?", (label,), split)
        for i, (label, _) in enumerate(cases)
    ]
    said = {q.question_id: p for q, (_, p) in zip(questions, cases, strict=True)}
    return judge_all(pope.TASK, questions, said)


def test_pope_figures_by_hand():
    # true yes: 2 said yes, 1 said no; true no: 1 said yes, 4 said no
    cases = [("yes", "yes")] * 2 + [("yes", "no")] + [("no", "yes")] + [("no", "No, none.")] * 4
    found = pope.figures(pope_set(*cases))["by_split"]["random"]
    assert found["accuracy"] == pytest.approx(6 / 8)
    assert found["precision"] == pytest.approx(2 / 3)
    assert found["recall"] == pytest.approx(2 / 3)
    assert found["f1"] == pytest.approx(2 / 3)
    assert found["yes_ratio"] == pytest.approx(3 / 8)  # of the answers, not of the labels


def test_pope_splits_stand_apart_and_their_mean_beside():
    judged = pope_set(("yes", "yes"), ("no", "no")) + pope_set(
        ("yes", "yes"), ("no", "yes"), split="popular"
    )
    found = pope.figures(judged)
    assert found["by_split"]["random"]["accuracy"] == 1
    assert found["by_split"]["popular"]["accuracy"] == 0.5
    assert found["mean_accuracy"] == 0.75
    assert found["mean_f1"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["splits_missing"] == ["adversarial"]


def test_pope_without_an_answer_yes_has_no_precision():
    found = pope.figures(pope_set(("yes", "no"), ("no", "no")))
    assert found["by_split"]["random"]["precision"] is None and found["mean_f1"] is None


def given(questions, said):
    return {q.question_id: p for q, p in zip(questions, said, strict=True)}


def mme_questions(category="color", images=3):
    return [
        BenchmarkQuestion(f"{category}/{i}-{kind}", "?", (kind,), category, group=str(i))
        for i in range(images)
        for kind in ("Yes", "No")
    ]


def test_mme_wants_both_questions_of_an_image():
    questions = mme_questions()
    # image 0: both right; 1: one right; 2: none
    said = ["Yes", "No", "Yes", "Yes", "no", "yes"]
    judged = judge_all(mme.TASK, questions, given(questions, said))
    found = mme.figures(judged)["by_category"]["color"]
    assert found["accuracy"] == pytest.approx(3 / 6)
    assert found["accuracy_plus"] == pytest.approx(1 / 3)
    assert found["score"] == pytest.approx(50 + 100 / 3)


def test_mme_pairs_are_of_one_image_and_not_of_neighbours():
    """The same six answers with the images' questions apart from each other."""
    questions = mme_questions()
    apart = questions[::2] + questions[1::2]
    said = given(questions, ["Yes", "No", "Yes", "Yes", "no", "yes"])
    found = mme.figures(judge_all(mme.TASK, apart, said))["by_category"]["color"]
    assert found["accuracy_plus"] == pytest.approx(1 / 3)


def test_mme_sums_ten_and_four_categories_or_none():
    questions = [q for name in (*mme.PERCEPTION, *mme.COGNITION) for q in mme_questions(name)]
    truth = {q.question_id: q.answers[0] for q in questions}
    found = mme.figures(judge_all(mme.TASK, questions, truth))
    assert found["perception"] == 2000 and found["cognition"] == 800
    fewer = [q for q in questions if q.category != "OCR"]
    found = mme.figures(judge_all(mme.TASK, fewer, truth))
    assert found["perception"] is None and found["perception_categories_missing"] == ["OCR"]


def test_mme_refuses_images_without_their_pair():
    assert mme.TASK.check_set(mme_questions()) is None
    complaint = mme.TASK.check_set(mme_questions()[:-1])
    assert complaint == "image '2' of 'color' has 1 questions where MME has 2"
