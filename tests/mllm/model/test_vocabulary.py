import pytest
import torch

from mllm.model.vocabulary import ImageVocabulary

VOCABULARY = ImageVocabulary(offset=100, num_semantic_codes=7, num_pixel_codes=3)


def test_every_code_round_trips():
    codes = torch.arange(21)
    token_ids = VOCABULARY.token_ids(codes)
    assert token_ids.tolist() == list(range(100, 121))
    assert torch.equal(VOCABULARY.image_codes(token_ids), codes)
    assert VOCABULARY.is_image(token_ids).all()
    assert (VOCABULARY.num_image_codes, VOCABULARY.size) == (21, 121)


def test_text_ids_are_no_images():
    assert not VOCABULARY.is_image(torch.arange(100)).any()
    assert not VOCABULARY.is_image(torch.tensor([-100])).any()


@pytest.mark.parametrize("wrong", [99, 121, -1])
def test_an_id_out_of_range_raises(wrong):
    with pytest.raises(ValueError, match=r"\[100, 121\)"):
        VOCABULARY.image_codes(torch.tensor([105, wrong]))


def test_no_ids_are_no_codes():
    assert VOCABULARY.image_codes(torch.empty(0, dtype=torch.long)).numel() == 0


def test_embed_tokens_of_a_pretrained_model_stay_as_they_are(world, tmp_path):
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from mllm.init.build import init_mllm
    from mllm.init.settings import InitSettings
    from mllm.saved.load import load_model, load_processor

    torch.manual_seed(0)
    text_tokenizer = AutoTokenizer.from_pretrained(world.start)
    plain = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(text_tokenizer), hidden_size=32, intermediate_size=64,
            num_hidden_layers=1, num_attention_heads=2, tie_word_embeddings=False,
        )
    ).eval()  # fmt: skip
    plain.save_pretrained(tmp_path / "llm")
    text_tokenizer.save_pretrained(tmp_path / "llm")
    folder = init_mllm(
        InitSettings(tokenizer=world.tokenizer, out=tmp_path / "out", llm=str(tmp_path / "llm"))
    )
    model, processor = load_model(folder).eval(), load_processor(folder)
    input_ids = torch.tensor([processor.tokenizer("what color is it?")["input_ids"]])
    assert torch.equal(model(input_ids).logits, plain(input_ids).logits)
