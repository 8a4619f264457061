"""Turns, images anywhere, and plain text, token by token."""

import copy

import pytest

from mllm.data.documents import conversation_document, text_document
from mllm.model.chat_template import ChatEncoder
from tests.mllm.model.test_chat_template import CHATML, pieces, spelled
from tests.mllm.tiny import flat

CODES = [[7, 0, 14, 3], [1, 2, 3, 4]]


@pytest.fixture
def images(chat):
    return [[len(chat.text_tokenizer) + code for code in codes] for codes in CODES]


def labelled(document):
    """Places of the labels; each label must be its own token."""
    places = [place for place, label in enumerate(flat(document).labels) if label != -100]
    assert all(flat(document).labels[place] == flat(document).token_ids[place] for place in places)
    assert all((flat(document).weights[p] > 0) == (p in places) for p in range(len(document)))
    return places


def test_two_turns_about_two_images_are_these_tokens_with_these_labels(chat, images):
    messages = [
        ("user", "<image>what color is it?"), ("assistant", "red"),
        ("user", "is it blue? <image>"), ("assistant", "no"),
    ]  # fmt: skip
    document = conversation_document(chat, messages, images, answer_weight=2.0)
    first, red = pieces(chat, "what color is it?"), pieces(chat, "red")
    second, no = pieces(chat, "is it blue? "), pieces(chat, "no")
    turns = [
        ["<|user|>", "<|image_begin|>", *CODES[0], "<|image_end|>", *first, "<|assistant|>"],
        [*red, "</s>"],
        ["<|user|>", *second, "<|image_begin|>", *CODES[1], "<|image_end|>", "<|assistant|>"],
        [*no, "</s>"],
    ]
    offset = len(chat.text_tokenizer)
    assert spelled(chat, flat(document).token_ids, offset) == [
        token for turn in turns for token in turn
    ]
    starts = [sum(map(len, turns[:i])) for i in range(5)]
    assert labelled(document) == [*range(starts[1], starts[2]), *range(starts[3], starts[4])]
    for turn in (1, 3):
        assert sum(flat(document).weights[starts[turn] : starts[turn + 1]]) == pytest.approx(2.0)
    assert flat(document).positions == list(range(len(document)))
    assert set(flat(document).suffixes) == {0}


def test_an_image_that_the_assistant_draws_is_a_label_but_for_its_end(chat, images):
    messages = [("user", "a red bar"), ("assistant", "here: <image>red")]
    document = conversation_document(chat, messages, images[:1], 1.0, drawing_weight=8.0)
    before, after = pieces(chat, "here: "), chat.text_tokenizer.tokenize("<|image_end|>red")[1:]
    head = ["<|user|>", *pieces(chat, "a red bar"), "<|assistant|>"]
    said = [*before, "<|image_begin|>", *CODES[0], "<|image_end|>", *after, "</s>"]
    offset = len(chat.text_tokenizer)
    assert spelled(chat, flat(document).token_ids, offset) == head + said
    end = len(head) + said.index("<|image_end|>")
    wanted = [place for place in range(len(head), len(head + said)) if place != end]
    assert labelled(document) == wanted
    drawn = [place for place in wanted if flat(document).token_ids[place] >= offset]
    assert [flat(document).weights[place] for place in drawn] == [2.0] * 4
    assert sum(flat(document).weights) == pytest.approx(9.0)


def test_a_system_message_is_no_label(chat):
    messages = [("system", "be brief"), ("user", "is it blue?"), ("assistant", "no")]
    document = conversation_document(chat, messages, [])
    assert (
        spelled(chat, flat(document).token_ids, 10**6)[-len(pieces(chat, "no")) - 2]
        == "<|assistant|>"
    )
    assert len(labelled(document)) == len(pieces(chat, "no")) + 1


def test_turns_that_do_not_fit_are_left_out_from_the_last(chat, images):
    messages = [("user", "<image>what color is it?"), ("assistant", "red")]
    more = [*messages, ("user", "is it blue?"), ("assistant", "no")]
    short = conversation_document(chat, messages, images[:1])
    whole = conversation_document(chat, more, images[:1])
    cut = conversation_document(chat, more, images[:1], max_length=len(whole) - 1)
    assert cut == short
    assert conversation_document(chat, more, images[:1], max_length=len(whole)) == whole


@pytest.mark.parametrize("number", [0, 2])
def test_marks_and_images_must_match(chat, images, number):
    messages = [("user", "<image>what color is it?"), ("assistant", "red")]
    with pytest.raises(ValueError, match=f"1 image marks, but {number} images"):
        conversation_document(chat, messages, images[:number])


@pytest.fixture(scope="module")
def make_chat(processor):
    def make(template):
        text_tokenizer = copy.deepcopy(processor.tokenizer)
        text_tokenizer.add_special_tokens(
            {"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]},
            replace_extra_special_tokens=False,
        )
        text_tokenizer.eos_token = "<|im_end|>"
        text_tokenizer.chat_template = template
        return ChatEncoder(text_tokenizer, num_image_positions=4)

    return make


def words(chat, token_ids):
    text = chat.text_tokenizer.decode([i for i in token_ids if i < len(chat.text_tokenizer)])
    return text.replace(" ", "").replace("\n", "")


TURNS = [
    ("user", "<image>what color is it?"), ("assistant", "red"),
    ("user", "is it blue?"), ("assistant", "no"),
]  # fmt: skip


def test_turns_of_another_template_are_labelled_likewise(make_chat):
    chat = make_chat(CHATML)
    document = conversation_document(chat, TURNS, [[10**6] * 4])
    assert words(chat, flat(document).token_ids) == (
        "<|im_start|>systemYouareahelpfulassistant.<|im_end|>"
        "<|im_start|>user<|image_begin|><|image_end|>whatcolorisit?<|im_end|>"
        "<|im_start|>assistantred<|im_end|><|im_start|>userisitblue?<|im_end|>"
        "<|im_start|>assistantno<|im_end|>"
    )
    labels = [flat(document).token_ids[place] for place in labelled(document)]
    assert words(chat, labels) == "red<|im_end|>no<|im_end|>"


def test_a_template_that_rewrites_earlier_turns_leaves_the_last_answer_as_label(make_chat):
    # Like Qwen3's: the last answer carries an empty thought, earlier ones don't.
    chat = make_chat(
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
        "{% if loop.last and message['role'] == 'assistant' %}hm {% endif %}"
        "{{ message['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    document = conversation_document(chat, TURNS, [[10**6] * 4])
    assert words(chat, flat(document).token_ids).count("hm") == 1
    labels = [flat(document).token_ids[place] for place in labelled(document)]
    assert words(chat, labels) == "hmno<|im_end|>"


def test_plain_text_is_all_labels_but_its_first_token(chat):
    document = text_document(chat, "what color is it? red", weight=3.0)
    ids = chat.text_tokenizer("what color is it? red")["input_ids"]
    assert flat(document).token_ids == [*ids, chat.text_tokenizer.eos_token_id]
    assert labelled(document) == list(range(1, len(document)))
    assert sum(flat(document).weights) == pytest.approx(3.0)


def test_a_long_text_is_cut_where_the_seed_says(chat):
    whole = text_document(chat, "what color is it? " * 9)
    parts = [text_document(chat, "what color is it? " * 9, max_length=12, start=s) for s in (0, 5)]
    assert [flat(part).token_ids for part in parts] == [
        flat(whole).token_ids[:12],
        flat(whole).token_ids[5:17],
    ]
    assert all(labelled(part) == list(range(1, 12)) for part in parts)


def test_text_cannot_forge_an_image(chat):
    document = text_document(chat, "a <|image_begin|><|image|> b")
    assert not {chat.begin_of_image_id, chat.image_id} & set(flat(document).token_ids)
