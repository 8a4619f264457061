import pytest
from transformers import AutoTokenizer

from data_pipelines.text_tokenizer import train_text_tokenizer

SENTENCES = ["what color is the shape?", "a teal triangle", "is there a red circle?"]
MARKS = ["<|user|>", "<|assistant|>"]


@pytest.fixture(scope="module")
def trained():
    return train_text_tokenizer(SENTENCES * 20 + ["red"] * 5, 400, MARKS)


@pytest.fixture(scope="module", params=["trained", "reloaded"])
def text_tokenizer(request, trained, tmp_path_factory):
    """As it was made, and as it comes back from the folder of a model that started from it."""
    found = trained
    for _ in range(0 if request.param == "trained" else 2):
        folder = tmp_path_factory.mktemp("text-tokenizer")
        found.save_pretrained(folder)
        found = AutoTokenizer.from_pretrained(folder)
    return found


def pieces(text_tokenizer, text):
    return text_tokenizer.tokenize(text, add_special_tokens=False)


@pytest.mark.parametrize("sentence", SENTENCES)
def test_a_sentence_is_cut_alike_at_the_start_and_after_a_special_token(text_tokenizer, sentence):
    alone = pieces(text_tokenizer, sentence)
    assert alone[0] == "▁" + sentence.split()[0]  # the whole first word is one piece
    chat = pieces(text_tokenizer, f"<|user|>{sentence}<|assistant|>{sentence}</s>")
    assert chat == ["<|user|>", *alone, "<|assistant|>", *alone, "</s>"]


def test_nothing_between_special_tokens_is_no_piece(text_tokenizer):
    assert pieces(text_tokenizer, "<|user|><|assistant|>") == MARKS


@pytest.mark.parametrize("text", [*SENTENCES, "two  spaces", "tail ", "日本 é\tq", "ABC 123!"])
def test_text_comes_back_whole_after_a_special_token(text_tokenizer, text):
    ids = text_tokenizer(f"<|user|>{text}</s>", add_special_tokens=False)["input_ids"]
    assert text_tokenizer.unk_token_id not in ids
    assert text_tokenizer.decode(ids, skip_special_tokens=True) == text


def test_the_same_texts_give_the_same_pieces(trained):
    again = train_text_tokenizer(SENTENCES * 20 + ["red"] * 5, 400, MARKS)
    assert again.get_vocab() == trained.get_vocab()
