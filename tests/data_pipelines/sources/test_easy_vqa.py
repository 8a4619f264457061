import json
import sys
from collections import Counter

import pytest

from data_pipelines.sources.easy_vqa import (
    caption_of,
    data_folder,
    read_rows,
    stated_truth,
)
from data_pipelines.sources.easy_vqa_shapes import PALETTE, SHAPES
from runtime.errors import UserError

COLOURS = set(PALETTE)

# Every form there is, by what a "yes" (or any answer to an open question) leaves possible.
AFFIRMATIVE = [
    "does the image contain a {}?",
    "is a {} present?",
    "is there a {}?",
    "is there a {} in the image?",
]
NEGATED = [
    "does the image not contain a {}?",
    "is no {} present?",
    "is there not a {}?",
    "is there not a {} in the image?",
]
OPEN = [
    *[f"what color is the {thing}?" for thing in (*SHAPES, "shape")],
    *[f"what is the color of the {thing}?" for thing in (*SHAPES, "shape")],
    *[f"what is the {colour} shape?" for colour in PALETTE],
    "what shape does the image contain?",
    "what shape is in the image?",
    "what shape is present?",
]


def test_the_forms_below_are_all_that_the_data_set_asks():
    things = [*SHAPES, *(f"{colour} shape" for colour in PALETTE)]
    forms = {form.format(thing) for form in AFFIRMATIVE + NEGATED for thing in things} | set(OPEN)
    asked = set()
    for split in ("train", "test"):
        rows = json.loads((data_folder() / split / "questions.json").read_text(encoding="utf-8"))
        asked |= {question for question, _, _ in rows}
    assert len(asked) == 107
    assert forms == asked


@pytest.mark.parametrize("form", AFFIRMATIVE + NEGATED)
@pytest.mark.parametrize("answer", ["yes", "no"])
def test_yes_and_no_are_read_with_the_negation(form, answer):
    holds = (form in AFFIRMATIVE) == (answer == "yes")
    about_colour = stated_truth([(form.format("teal shape"), answer)])
    about_shape = stated_truth([(form.format("circle"), answer)])
    assert about_colour == ({"teal"} if holds else COLOURS - {"teal"}, set(SHAPES))
    assert about_shape == (COLOURS, {"circle"} if holds else {"rectangle", "triangle"})


@pytest.mark.parametrize("question", OPEN)
def test_an_open_question_tells_what_it_names_and_what_is_answered(question):
    named = {word for word in [*COLOURS, *SHAPES] if f" {word}" in question}
    answer = "red" if "color" in question else "circle"
    colours, shapes = stated_truth([(question, answer)])
    told = {word for possible in (colours, shapes) if len(possible) == 1 for word in possible}
    assert told == named | {answer}


def test_the_last_one_not_ruled_out_is_the_truth():
    asked = [("is there a circle?", "no"), ("is no triangle present?", "yes")]
    assert stated_truth(asked)[1] == {"rectangle"}


def test_a_question_that_names_nothing_is_refused():
    with pytest.raises(ValueError, match="is it nice"):
        stated_truth([("is it nice?", "yes")])


def test_the_test_split_is_complete_and_each_image_has_one_caption():
    records = [found.record for found in read_rows("test")]
    assert [record.record_id for record in records[:2]] == [
        "easy-vqa-test-000000",
        "easy-vqa-test-000001",
    ]
    assert len({record.record_id for record in records}) == 1000
    questions = [question for record in records for question in record.questions]
    assert len(questions) == len({question.question_id for question in questions}) == 9673
    captions = Counter(caption for record in records for caption in record.captions)
    assert captions.total() == 1000
    assert set(captions) == {f"a {colour} {shape}" for colour in PALETTE for shape in SHAPES}


def test_captions_never_contradict_the_questions():
    for record in (found.record for found in read_rows("test")):
        colours, shapes = stated_truth((q.question, q.answers[0]) for q in record.questions)
        _, colour, shape = record.captions[0].split()
        assert colour in colours
        assert shape in shapes


def test_pixels_speak_only_where_the_questions_are_silent():
    image = read_rows("test").read(0).record.image  # a red triangle
    assert caption_of([], image) == "a red triangle"
    assert caption_of([("what color is the shape?", "blue")], image) == "a blue triangle"
    asked = [("what is the teal shape?", "circle")]
    assert caption_of(asked, b"never looked at") == "a teal circle"


def test_the_images_are_the_published_bytes():
    first = read_rows("train").read(0).record
    assert first.image == (data_folder() / "train" / "images" / "0.png").read_bytes()


def test_a_missing_package_is_named_with_its_mend(monkeypatch):
    monkeypatch.setitem(sys.modules, "easy_vqa", None)
    with pytest.raises(UserError, match="pip install easy-vqa"):
        read_rows("test")
