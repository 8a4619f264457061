import io
from dataclasses import replace

import pytest
from PIL import Image

from data_pipelines.images import ImageError
from data_pipelines.records import Question, Record
from data_pipelines.validate import MAX_TEXT_LENGTH, check_record


def good_record() -> Record:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4)).save(buffer, "PNG")
    return Record("r", buffer.getvalue(), ["a cat"], [Question("what?", ["cat"], "q")])


def test_a_good_record_gives_its_image_size():
    assert check_record(good_record()) == (6, 4)


def test_an_image_alone_is_enough():
    assert check_record(replace(good_record(), captions=[], questions=[])) == (6, 4)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "an empty"),
        (" \n", "an empty"),
        ("a\0b", "NUL"),
        ("\ud800", "not UTF-8"),
        ("x" * (MAX_TEXT_LENGTH + 1), "20,001 characters"),
    ],
)
def test_bad_text_is_refused_wherever_it_is(text, reason):
    record = good_record()
    for bad in (
        replace(record, record_id=text),
        replace(record, captions=["a cat", text]),
        replace(record, questions=[Question(text, ["cat"], "q")]),
        replace(record, questions=[Question("what?", ["cat", text], "q")]),
        replace(record, questions=[Question("what?", ["cat"], text)]),
    ):
        with pytest.raises(ValueError, match=reason):
            check_record(bad)


def test_a_question_without_an_answer_is_refused():
    with pytest.raises(ValueError, match="q has no answer"):
        check_record(replace(good_record(), questions=[Question("what?", [], "q")]))


def test_an_image_cut_short_is_refused():
    record = good_record()
    with pytest.raises(ImageError, match="damaged"):
        check_record(replace(record, image=record.image[:40]))
