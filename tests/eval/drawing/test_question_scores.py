import pytest

from eval.drawing.question_scores import dpg_image_score, dpg_questions, dpg_score, soft_tifa


def question(number, *parents, category="entity - whole"):
    return {"id": number, "question": "?", "category": category, "parents": list(parents)}


CHAIN = [question(1), question(2, 1), question(3, 2), question(4)]


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({1: 1, 2: 1, 3: 1, 4: 1}, 1),
        ({1: 0, 2: 1, 3: 1, 4: 1}, 1 / 4),  # 2 falls with 1, and 3 with 2
        ({1: 1, 2: 0, 3: 1, 4: 1}, 2 / 4),
        ({1: 1, 2: 1, 3: 0, 4: 0}, 2 / 4),
    ],
)
def test_children_of_a_no_score_zero(answers, expected):
    assert dpg_image_score(CHAIN, answers) == pytest.approx(expected)


def test_a_child_that_stands_before_its_parent_sees_the_parents_raw_answer():
    backwards = [question(3, 2), question(2, 1), question(1)]
    assert dpg_image_score(backwards, {1: 0, 2: 1, 3: 1}) == pytest.approx(1 / 3)


def test_categories_are_the_raw_answers_of_the_last_picture():
    pictures = [{1: 1, 2: 1, 3: 1, 4: 1}, {1: 0, 2: 1, 3: 1, 4: 1}]
    found = dpg_score([(CHAIN, pictures)])
    assert found["accuracy"] == pytest.approx((1 + 1 / 4) / 2)
    assert found["by_task"]["entity"]["accuracy"] == pytest.approx(3 / 4)
    assert found["by_task"]["entity - whole"]["num_questions"] == 4


def test_questions_are_read_from_the_published_columns():
    row = {
        "proposition_id": "3",
        "dependency": "1, 2",
        "tuple": "attribute - color (mat, red)",
        "question_natural_language": "Is the mat red?",
    }
    assert dpg_questions([row, row | {"dependency": "0"}]) == [
        {"id": 3, "question": "Is the mat red?", "category": "attribute - color", "parents": p}
        for p in ([1, 2], [])
    ]


def test_soft_tifa_is_arithmetic_by_atom_and_geometric_by_prompt():
    found = soft_tifa([(["count", "object"], [0.25, 1.0]), (["object"], [0.5])])
    assert found["accuracy"] == pytest.approx((0.625 + 0.5) / 2)
    assert found["geometric"]["accuracy"] == pytest.approx((0.5 + 0.5) / 2)
    assert found["by_task"]["object"] == {
        "accuracy": pytest.approx(0.75),
        "interval": None,
        "num_questions": 2,
    }


def test_intervals_over_few_prompts_stay_where_scores_can_be():
    found = soft_tifa([(["object"], [0.02]), (["object"], [1.0])])
    low, high = found["interval"]
    assert low == 0 and 0.51 < high == 1 and found["num_prompts"] == 2
    assert found["geometric"]["num_prompts"] == 2
    assert dpg_score([(CHAIN, [{q["id"]: 1.0 for q in CHAIN}])])["interval"] is None
