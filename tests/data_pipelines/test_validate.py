import io
from dataclasses import replace

import pytest
from PIL import Image

from data_pipelines.images import ImageError
from data_pipelines.records import Conversation, Message, Question, Record
from data_pipelines.validate import MAX_DOCUMENT_LENGTH, MAX_TEXT_LENGTH, check_record


def good_record() -> Record:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4)).save(buffer, "PNG")
    return Record("r", buffer.getvalue(), ["a cat"], [Question("what?", ["cat"], "q")])


def test_a_good_record_gives_its_image_size():
    assert check_record(good_record()).size == (6, 4)


def test_an_image_alone_is_enough():
    assert check_record(replace(good_record(), captions=[], questions=[])).size == (6, 4)


def talk(*turns: tuple[str, str], images: tuple[str, ...] = ()) -> Conversation:
    return Conversation([Message(role, content) for role, content in turns], list(images))


def test_text_alone_is_enough():
    assert check_record(Record("r", None, text="a story")) is None
    spoken = talk(("system", "be brief"), ("user", "hello"), ("assistant", "hello"))
    assert check_record(Record("r", None, conversations=[spoken])) is None


def test_a_record_of_nothing_and_words_about_no_image_are_refused():
    with pytest.raises(ValueError, match="neither an image nor a text"):
        check_record(Record("r", None))
    with pytest.raises(ValueError, match="no image that it is about"):
        check_record(Record("r", None, ["a cat"]))


@pytest.mark.parametrize(
    "turns",
    [
        (),
        (("user", "hello"),),
        (("assistant", "hello"),),
        (("user", "a"), ("user", "b"), ("assistant", "c")),
        (("user", "a"), ("system", "b"), ("assistant", "c")),
        (("user", "a"), ("assistant", "b"), ("user", "c")),
    ],
)
def test_turns_that_no_template_renders_are_refused(turns):
    with pytest.raises(ValueError, match="user and assistant in turn"):
        check_record(replace(good_record(), conversations=[talk(*turns)]))


def test_an_unknown_role_is_refused_by_its_name():
    with pytest.raises(ValueError, match="role is 'human'; known are system, user, assistant"):
        check_record(replace(good_record(), conversations=[talk(("human", "a"), ("gpt", "b"))]))


def test_every_image_mark_has_its_image():
    def check(has_image: bool, question: str, *images: str) -> None:
        spoken = talk(("user", question), ("assistant", "yes"), images=images)
        image = good_record().image if has_image else None
        check_record(Record("r", image, conversations=[spoken]))

    check(True, "<image> is it?")
    check(True, "is it?")
    check(False, "is it?")
    check(False, "<image> is it <image>?", "a", "b")
    with pytest.raises(ValueError, match=r"1 image marks .* its record has none"):
        check(False, "<image> is it?")
    with pytest.raises(ValueError, match=r"2 image marks .* its record has one image"):
        check(True, "<image> is it <image>?")
    with pytest.raises(ValueError, match="2 image marks for 1 images"):
        check(True, "<image> is it <image>?", "a")
    with pytest.raises(ValueError, match="0 image marks for 1 images"):
        check(True, "is it?", "a")


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
        replace(
            record, conversations=[talk(("user", "hi"), ("assistant", "<image>"), images=[text])]
        ),
    ):
        with pytest.raises(ValueError, match=reason):
            check_record(bad)


def test_messages_and_plain_text_may_be_longer_but_not_without_end():
    long, longer = "x" * MAX_DOCUMENT_LENGTH, "x" * (MAX_DOCUMENT_LENGTH + 1)
    check_record(Record("r", None, conversations=[talk(("user", long), ("assistant", "ok"))]))
    check_record(Record("r", None, text=long))
    with pytest.raises(ValueError, match="a message has 1,000,001 characters"):
        check_record(Record("r", None, conversations=[talk(("user", longer), ("assistant", "ok"))]))
    with pytest.raises(ValueError, match="a text has 1,000,001 characters"):
        check_record(Record("r", None, text=longer))


def test_a_question_without_an_answer_is_refused():
    with pytest.raises(ValueError, match="q has no answer"):
        check_record(replace(good_record(), questions=[Question("what?", [], "q")]))


def test_an_image_cut_short_is_refused():
    record = good_record()
    with pytest.raises(ImageError, match="damaged"):
        check_record(replace(record, image=record.image[:40]))
