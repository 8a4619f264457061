import pytest
from huggingface_hub import ModelCard

from tokenizer.model.fingerprint import code_fingerprint
from tokenizer.model.model_card import model_card
from tokenizer.saved.halves import half_of
from tokenizer.saved.history import add_phase

RECORD = {
    "phase": "semantic",
    "teachers": ["google/siglip-large-patch16-256", "runs/teacher/model"],
    "num_steps": 1234,
    "global_batch_size": 56,
    "data": [{"source": "pictures", "licence": "CC0-1.0", "origin": "made here"}],
    "num_records": 789,
    "data_fingerprint": "f" * 64,
}


def test_the_card_says_what_the_model_is(tiny_model):
    model = tiny_model()
    card = ModelCard(model_card(model))
    assert card.data.library_name == "transformers"
    assert "semhitok" in card.data.tags
    assert "| semantic codes K | 8 |" in card.text
    assert "| codes in all | 32 |" in card.text
    assert code_fingerprint(model) in card.text
    for name, part in model.named_children():
        number = sum(parameter.numel() for parameter in part.parameters())
        assert f"| {name.replace('_', ' ')} | {number:,} |" in card.text


def test_the_card_claims_nothing_that_is_not_known(tiny_model):
    card = ModelCard(model_card(tiny_model()))
    assert card.data.license is None
    assert card.data.base_model is None
    assert card.data.eval_results is None
    assert "Not recorded." in card.text


def test_the_card_tells_the_training(tiny_model):
    model = tiny_model()
    add_phase(model.config, RECORD)
    card = ModelCard(model_card(model))
    assert "| semantic | 1,234 | 56 | pictures (CC0-1.0) | 789 | `ffffffffffffffff` |" in card.text
    # A local folder would point nowhere on the hub.
    assert card.data.base_model == ["google/siglip-large-patch16-256"]


@pytest.mark.parametrize(
    ("half", "shown", "hidden"),
    [("encoder", ".encode(", ".decode("), ("decoder", ".decode(", ".encode(")],
)
def test_the_card_of_a_half_shows_its_own_use(tiny_model, half, shown, hidden):
    card = model_card(half_of(tiny_model(), half))
    assert shown in card and hidden not in card
