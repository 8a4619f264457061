import io
from dataclasses import replace

import pytest
from PIL import Image

from data_pipelines.records import Conversation, Message, Question, Record
from data_pipelines.validate import MAX_DOCUMENT_LENGTH, MAX_TEXT_LENGTH, check_record


def good_record() -> Record:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4)).save(buffer, "PNG")
    return Record("r", buffer.getvalue(), ["a cat"], [Question("what?", ["cat"], "q")])


def reasons(record: Record) -> list[str]:
    """Why a record, or its parts, are rejected, with their ids."""
    checked = check_record(record)
    return [f"{each.record_id}: {each.reason}" for each in checked.rejects + checked.parts]


def test_a_good_record_gives_its_image_size():
    checked = check_record(good_record())
    assert checked.record == good_record() and not checked.rejects
    assert checked.facts.size == (6, 4)


def test_an_image_alone_is_enough():
    record = replace(good_record(), captions=[], questions=[])
    assert check_record(record).facts.size == (6, 4)


def talk(*turns: tuple[str, str], images: tuple[str, ...] = (), own_id=None) -> Conversation:
    messages = [Message(role, content) for role, content in turns]
    return Conversation(messages, list(images), own_id)


GOOD = (("user", "hi"), ("assistant", "hello"))


def test_text_alone_is_enough():
    for record in (
        Record("r", None, text="a story"),
        Record("r", None, conversations=[talk(("system", "be brief"), *GOOD)]),
    ):
        assert check_record(record) == (record, None, [], [])


def test_a_record_of_nothing_and_words_about_no_image_are_refused():
    assert reasons(Record("r", None)) == ["r: neither an image nor a text"]
    assert reasons(Record("r", None, ["a cat"])) == ["r: a caption, but no image that it is about"]
    told = Record("r", None, ["a cat"], [Question("what?", ["cat"], "q")], text="a story")
    checked = check_record(told)
    assert checked.record == Record("r", None, text="a story")
    assert [part.record_id for part in checked.parts] == ["r#caption-1", "r#question-1"]
    assert not checked.rejects


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
    (reason,) = reasons(replace(good_record(), conversations=[talk(*turns)]))
    assert reason.startswith("r#conversation-1: ") and "user and assistant in turn" in reason


def test_an_unknown_role_is_refused_by_its_name():
    record = replace(good_record(), conversations=[talk(("human", "a"), ("gpt", "b"))])
    (reason,) = reasons(record)
    assert "role is 'human'; known are system, user, assistant" in reason


def test_every_image_mark_has_its_image():
    def check(has_image: bool, question: str, *images: str) -> str:
        spoken = talk(("user", question), ("assistant", "yes"), images=images)
        image = good_record().image if has_image else None
        return "".join(reasons(Record("r", image, conversations=[spoken])))

    assert not check(True, "<image> is it?")
    assert not check(True, "is it?")
    assert not check(False, "is it?")
    assert not check(False, "<image> is it <image>?", "a", "b")
    assert "1 image marks and names no images, and its record has none" in check(False, "<image>?")
    two = check(True, "<image> is it <image>?")
    assert "2 image marks and names no images, and its record has one image" in two
    assert "2 image marks for 1 images" in check(True, "<image> is it <image>?", "a")
    assert "0 image marks for 1 images" in check(True, "is it?", "a")


BAD = [
    ("", "an empty"),
    (" \n", "an empty"),
    ("a\0b", "NUL"),
    ("\ud800", "not UTF-8"),
    ("x" * (MAX_TEXT_LENGTH + 1), "20,001 characters"),
]


@pytest.mark.parametrize(("text", "reason"), BAD)
def test_one_bad_text_is_rejected_and_leaves_the_others(text, reason):
    record = good_record()
    seen = talk(("user", "hi"), ("assistant", "<image>"), images=[text])
    asked = record.questions
    for bad, part in (
        (replace(record, captions=["a cat", text]), "r#caption-2"),
        (
            replace(record, questions=[*asked, Question(text, ["a"], "p")]),
            "r#question-2",
        ),
        (replace(record, questions=[Question("what?", ["cat", text], "q")]), "q#answer-2"),
        (
            replace(record, questions=[*asked, Question("?", ["a"], text)]),
            "r#question-2",
        ),
        (replace(record, conversations=[seen]), "r#conversation-1"),
        (replace(record, questions=[*asked, Question("?", [text], "p", "p")]), "p"),
    ):
        checked = check_record(bad)
        (reject,) = checked.rejects + checked.parts
        assert reject.record_id == part and reason in reject.reason
        assert checked.record == record


@pytest.mark.parametrize(("text", "reason"), BAD)
def test_a_record_without_a_good_text_is_rejected_by_its_id(text, reason):
    record = replace(good_record(), captions=[], questions=[])
    for bad in (
        replace(good_record(), record_id=text),
        replace(record, captions=[text]),
        replace(record, captions=[text, text]),
        replace(record, questions=[Question("what?", [text], "q")]),
    ):
        checked = check_record(bad)
        *_, reject = checked.rejects
        assert checked.record is None and reject.record_id == bad.record_id
        assert reason in reject.reason


def test_entries_with_ids_of_their_own_are_rejected_by_them():
    record = replace(good_record(), captions=[])
    bad = [talk(("assistant", "I speak first"), own_id=name) for name in ("e1", "e2")]
    good = talk(*GOOD, own_id="e3")
    checked = check_record(replace(record, questions=[], conversations=[*bad, good]))
    assert [reject.record_id for reject in checked.rejects] == ["e1", "e2"]
    assert checked.record.conversations == [good]
    checked = check_record(replace(record, questions=[], conversations=bad))
    assert checked.record is None
    assert [reject.record_id for reject in checked.rejects] == ["e1", "e2"]
    questions = [Question("what?", ["cat"], name, name) for name in ("q1", "q2")]
    cut = replace(record, image=record.image[:40], questions=questions)
    assert [reject.record_id for reject in check_record(cut).rejects] == ["q1", "q2"]


def test_messages_and_plain_text_may_be_longer_but_not_without_end():
    long, longer = "x" * MAX_DOCUMENT_LENGTH, "x" * (MAX_DOCUMENT_LENGTH + 1)
    talks = [talk(("user", text), ("assistant", "ok")) for text in (long, longer)]
    assert not reasons(Record("r", None, conversations=talks[:1]))
    assert not reasons(Record("r", None, text=long))
    (reason,) = reasons(Record("r", None, conversations=talks[1:]))
    assert "a message has 1,000,001 characters" in reason
    (reason,) = reasons(Record("r", None, text=longer))
    assert reason == "r: a text has 1,000,001 characters; the limit is 1,000,000"


def test_a_question_without_an_answer_is_refused():
    (reason,) = reasons(replace(good_record(), questions=[Question("what?", [], "q")]))
    assert reason == "r#question-1: the question q has no answer"


def test_an_image_cut_short_is_refused():
    record = good_record()
    (reason,) = reasons(replace(record, image=record.image[:40]))
    assert reason.startswith("r: the image is no") and "damaged" in reason
