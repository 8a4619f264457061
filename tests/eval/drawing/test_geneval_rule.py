"""Sixty cases of GenEval's rule on synthetic detections, each worked out from the rule by hand."""

import pytest

from eval.drawing.geneval_rule import COLOURS, TASKS, Detection, judge, relations, score

BOX = (100, 100, 200, 200)


def found(label, confidence=0.95, box=BOX, colour="red"):
    return Detection(label, confidence, box), colour


def cats(*confidences):
    return [found("cat", confidence) for confidence in confidences]


def shifted(x, y, label="cat", **options):
    """An object as large as `BOX`, away from it."""
    return found(label, box=(BOX[0] + x, BOX[1] + y, BOX[2] + x, BOX[3] + y), **options)


SINGLE = {"tag": "single_object", "include": [{"class": "cat", "count": 1}]}
TWO = {"tag": "two_object", "include": [{"class": "cat", "count": 1}, {"class": "dog", "count": 1}]}
COUNTING = {
    "tag": "counting",
    "include": [{"class": "cat", "count": 3}],
    "exclude": [{"class": "cat", "count": 4}],
}
COLORS = {"tag": "colors", "include": [{"class": "cat", "count": 1, "color": "blue"}]}
BOTH_COLOURS = {
    "tag": "color_attr",
    "include": [
        {"class": "cat", "count": 1, "color": "blue"},
        {"class": "dog", "count": 1, "color": "white"},
    ],
}


def position(relation, **target):
    """ "a cat RELATION a dog": the dog is the first clause and the cat's target."""
    return {
        "tag": "position",
        "include": [
            {"class": "dog", "count": 1, **target},
            {"class": "cat", "count": 1, "position": [relation, 0]},
        ],
    }


DOG = found("dog")
# With two boxes of side 100 the margin is 20 pixels on each axis, so an offset of d along one axis
# leaves (d - 20) / d, which exceeds one half from d > 40 on.
CASES = [
    # single object
    ("one cat", SINGLE, cats(0.95), True),
    ("just above the threshold", SINGLE, cats(0.31), True),
    ("at the threshold, which must be exceeded", SINGLE, cats(0.3), False),
    ("below the threshold", SINGLE, cats(0.29), False),
    ("nothing at all", SINGLE, [], False),
    ("another animal", SINGLE, [DOG], False),
    ("more than asked for is no fault", SINGLE, cats(0.9, 0.8, 0.7), True),
    ("others beside it are no fault", SINGLE, [DOG, *cats(0.5)], True),
    ("seventeen of them", SINGLE, cats(*[0.5] * 17), True),
    # two objects
    ("cat and dog", TWO, [*cats(0.5), DOG], True),
    ("the order does not matter", TWO, [DOG, *cats(0.5)], True),
    ("the cat alone", TWO, cats(0.9, 0.9), False),
    ("the dog alone", TWO, [DOG], False),
    ("the dog not sure enough", TWO, [*cats(0.9), found("dog", 0.3)], False),
    ("both barely", TWO, [*cats(0.301), found("dog", 0.301)], True),
    ("in the same place", TWO, [found("cat", box=BOX), found("dog", box=BOX)], True),
    ("neither", TWO, [found("bus")], False),
    # counting: 3, and not 4; above .9
    ("three", COUNTING, cats(0.95, 0.95, 0.95), True),
    ("two", COUNTING, cats(0.95, 0.95), False),
    ("four are one too many", COUNTING, cats(*[0.95] * 4), False),
    ("the third below .9", COUNTING, cats(0.95, 0.95, 0.89), False),
    ("the third at .9", COUNTING, cats(0.95, 0.95, 0.9), False),
    ("a fourth below .9 does not count", COUNTING, cats(0.95, 0.95, 0.95, 0.89), True),
    ("a fourth at .9 does not count", COUNTING, cats(0.95, 0.95, 0.95, 0.9), True),
    ("a fourth just above", COUNTING, cats(0.95, 0.95, 0.95, 0.901), False),
    ("a dog beside three", COUNTING, [*cats(0.95, 0.95, 0.95), DOG], True),
    ("three on one spot: overlaps are not suppressed", COUNTING, cats(0.99, 0.98, 0.97), True),
    ("sixteen and not seventeen: the limit hides the rest",
     {"tag": "counting", "include": [{"class": "cat", "count": 16}],
      "exclude": [{"class": "cat", "count": 17}]}, cats(*[0.95] * 20), True),
    ("seventeen can never be found",
     {"tag": "counting", "include": [{"class": "cat", "count": 17}], "exclude": []},
     cats(*[0.95] * 20), False),
    # colours
    ("a blue cat", COLORS, [found("cat", colour="blue")], True),
    ("a red cat", COLORS, [found("cat", colour="red")], False),
    ("a blue dog", COLORS, [found("dog", colour="blue")], False),
    ("the surest cat decides: blue",
     COLORS, [found("cat", 0.5, colour="red"), found("cat", 0.9, colour="blue")], True),
    ("the surest cat decides: red",
     COLORS, [found("cat", 0.9, colour="red"), found("cat", 0.5, colour="blue")], False),
    ("two blue cats asked for, one is red",
     {"tag": "colors", "include": [{"class": "cat", "count": 2, "color": "blue"}]},
     [found("cat", 0.9, colour="blue"), found("cat", 0.8, colour="red")], False),
    ("two blue cats asked for, the red one is the third",
     {"tag": "colors", "include": [{"class": "cat", "count": 2, "color": "blue"}]},
     [found("cat", 0.9, colour="blue"), found("cat", 0.8, colour="blue"),
      found("cat", 0.7, colour="red")], True),
    ("a blue cat not sure enough", COLORS, [found("cat", 0.2, colour="blue")], False),
    # two colours
    ("blue cat, white dog",
     BOTH_COLOURS, [found("cat", colour="blue"), found("dog", colour="white")], True),
    ("colours swapped",
     BOTH_COLOURS, [found("cat", colour="white"), found("dog", colour="blue")], False),
    ("both blue", BOTH_COLOURS, [found("cat", colour="blue"), found("dog", colour="blue")], False),
    ("no dog", BOTH_COLOURS, [found("cat", colour="blue")], False),
    ("a second dog of another colour, less sure", BOTH_COLOURS,
     [found("cat", colour="blue"), found("dog", 0.9, colour="white"),
      found("dog", 0.4, colour="pink")], True),
    # position
    ("well to the left", position("left of"), [DOG, shifted(-200, 0)], True),
    ("to the right instead", position("left of"), [DOG, shifted(200, 0)], False),
    ("well to the right", position("right of"), [DOG, shifted(200, 0)], True),
    ("above is up, where y is small", position("above"), [DOG, shifted(0, -200)], True),
    ("below", position("below"), [DOG, shifted(0, 200)], True),
    ("above and not below", position("below"), [DOG, shifted(0, -200)], False),
    ("41 pixels are past the margin", position("right of"), [DOG, shifted(41, 0)], True),
    ("40 pixels leave exactly one half", position("right of"), [DOG, shifted(40, 0)], False),
    ("within the margin", position("right of"), [DOG, shifted(20, 0)], False),
    ("on the same spot", position("right of"), [DOG, shifted(0, 0)], False),
    # Diagonal: (200 - 20) / (200 √2) = .64 on either axis.
    ("a diagonal is both: right", position("right of"), [DOG, shifted(200, 200)], True),
    ("a diagonal is both: below", position("below"), [DOG, shifted(200, 200)], True),
    # (60 - 20) / (60 √2) = .47 on either axis.
    ("a short diagonal is neither", position("right of"), [DOG, shifted(60, 60)], False),
    # (200 - 20) / |(200, 400)| = .40; (400 - 20) / 447 = .85.
    ("too steep to be right", position("right of"), [DOG, shifted(200, 400)], False),
    ("steep enough to be below", position("below"), [DOG, shifted(200, 400)], True),
    ("no dog to stand beside", position("left of"), [shifted(-200, 0)], False),
    ("the target has the wrong colour", position("left of", color="blue"),
     [DOG, shifted(-200, 0)], False),
    ("the surest cat decides where",
     position("left of"), [DOG, shifted(200, 0), shifted(-200, 0, confidence=0.5)], False),
]  # fmt: skip


@pytest.mark.parametrize(
    ("metadata", "objects", "correct"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_the_rule(metadata, objects, correct):
    colours = {id(detection): colour for detection, colour in objects}
    detections = [detection for detection, _ in objects]
    passed, wrong = judge(metadata, detections, lambda detection: colours[id(detection)])
    assert passed is correct, wrong
    assert bool(wrong) is not correct
    # The order in which the detector lists its objects is of no account.
    again, _ = judge(metadata, detections[::-1], lambda detection: colours[id(detection)])
    assert again is correct


def test_sixty_cases_over_all_six_tasks():
    assert len(CASES) >= 60
    assert {case[1]["tag"] for case in CASES} == set(TASKS)
    for tag in TASKS:
        assert {case[3] for case in CASES if case[1]["tag"] == tag} == {True, False}


def test_relations_are_opposite_to_each_other():
    one, _ = shifted(0, 0)
    other, _ = shifted(300, 250)
    assert relations(one, other) == {"left of", "above"}
    assert relations(other, one) == {"right of", "below"}


def test_margins_follow_the_sizes():
    small = Detection("cat", 0.9, (0, 0, 10, 10))
    near = Detection("dog", 0.9, (15, 0, 25, 10))
    large = Detection("dog", 0.9, (-80, -95, 120, 105))  # its centre as far away as the near one's
    assert relations(near, small) == {"right of"}
    assert relations(large, small) == set()


def test_colour_is_asked_for_only_where_it_matters():
    def never(detection):
        raise AssertionError

    assert judge(SINGLE, [found("cat")[0]], never)[0]
    assert not judge(COLORS, [], never)[0]


def test_the_score_is_the_mean_of_the_tasks_means():
    rows = [{"tag": "colors", "prompt": str(i // 2), "correct": i == 0} for i in range(8)]
    rows += [{"tag": "position", "prompt": "p", "correct": True}] * 2
    result = score(rows)
    assert result["accuracy"] == pytest.approx((1 / 8 + 1) / 2)
    assert result["image_accuracy"] == pytest.approx(3 / 10)
    assert result["prompt_accuracy"] == pytest.approx(2 / 5)
    assert result["missing_tasks"] == ["single_object", "two_object", "counting", "color_attr"]
    assert len(COLOURS) == 10
