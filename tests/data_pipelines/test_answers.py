import pytest

from data_pipelines.answers import comparable, most_frequent_answer


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["no"] + ["yes"] * 9, "yes"),  # VQAv2 with the odd one first
        (["no", "Yes", "yes"], "Yes"),
        (["red", "blue"], "red"),
        (["a", "b", "b", "a"], "a"),
        (["x", "caf\u00e9", "cafe\u0301"], "caf\u00e9"),
        (["one"], "one"),
    ],
)
def test_the_most_frequent_answer_wins_and_among_equals_the_first(answers, expected):
    assert most_frequent_answer(answers) == expected


def test_forms_of_one_character_are_one():
    assert comparable(" CAFE\u0301\n") == comparable("caf\u00e9")
