import pytest
import torch

from mllm.serving.answering import Answerer
from runtime.errors import UserError
from tests.mllm.tiny import picture

ASKED = ["what color is it?", "is it red?", "is it not a blue box, or is it?"]
IMAGES = [picture("red", "bar"), picture("blue", "box"), picture("green", "bar", 1)]


def test_a_batch_answers_like_one_at_a_time(model, processor):
    inputs = processor.questions(IMAGES, ASKED)
    assert (inputs["attention_mask"][:, 0] == 0).any()  # some are padded, on the left
    batched = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    new = batched[:, inputs["input_ids"].shape[1] :]
    for row in range(3):
        one = processor.questions(IMAGES[row : row + 1], ASKED[row : row + 1])
        alone = model.generate(**one, max_new_tokens=8, do_sample=False)
        alone = alone[0, one["input_ids"].shape[1] :]
        assert alone.tolist() == new[row, : len(alone)].tolist()
    assert len({tuple(row) for row in new.tolist()}) == 3


def test_text_generation_never_writes_an_image_token(model, processor):
    inputs = processor.questions(IMAGES, ASKED)
    torch.manual_seed(0)
    token_ids = model.generate(**inputs, max_new_tokens=64, do_sample=True, temperature=5.0)
    new = token_ids[:, inputs["input_ids"].shape[1] :]
    assert new.max() < model.vocabulary.offset
    # The prompt holds the image's own tokens by now, in place of the placeholders.
    expected = model.get_image_tokens(inputs["pixel_values"])
    prompt = token_ids[:, : inputs["input_ids"].shape[1]]
    assert torch.equal(prompt[prompt >= model.vocabulary.offset].view(3, -1), expected)


def test_the_image_matters_to_the_answer(model, processor):
    scores = []
    for image in IMAGES[:2]:
        inputs = processor.questions([image], ASKED[:1])
        with torch.no_grad():
            scores.append(model(**inputs, logits_to_keep=1).logits)
    assert (scores[0] - scores[1]).abs().max() > 1e-3


def test_answers_are_cut_at_the_end_token(processor):
    tokenizer = processor.tokenizer
    ids = [*tokenizer("<|assistant|>red", add_special_tokens=False)["input_ids"],
           tokenizer.eos_token_id, tokenizer.pad_token_id]  # fmt: skip
    assert processor.answers(torch.tensor([[5, 5, 5, *ids]]), 3) == ["red"]


def test_a_question_beyond_the_context_is_one_sentence(model, processor):
    with pytest.raises(UserError, match="reads at most 128: shorten the question"):
        Answerer(model, processor).ask(IMAGES[:1], ["why " * 10_000])


def test_images_and_questions_must_be_as_many(model, processor):
    with pytest.raises(ValueError, match="2 images for 1 questions"):
        processor.questions(IMAGES[:2], ASKED[:1])
    inputs = processor.questions(IMAGES[:1], ASKED[:1])
    with pytest.raises(ValueError, match="4 image placeholders"):
        model.fill_image_tokens(inputs["input_ids"], inputs["pixel_values"].expand(2, -1, -1, -1))
