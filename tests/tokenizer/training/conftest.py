"""What the tests of training start from."""

import pytest
from transformers import SiglipVisionModel

from tests.tokenizer.phases import ADVERSARIAL, FULL, PLAYS
from tokenizer.saved.model_folder import save_tokenizer


@pytest.fixture(scope="module")
def place(prepared, tiny_model, tmp_path_factory):
    """A tiny untrained tokenizer and its teacher, to start phases from; only to be read."""
    root = tmp_path_factory.mktemp("full")
    model = tiny_model()
    save_tokenizer(model, root / "tokenizer")
    SiglipVisionModel(model.config.teacher_config).save_pretrained(root / "teacher")
    return root


@pytest.fixture(scope="module")
def settings(place, prepared, model_fields, vision_fields):
    """Values of a phase's config with everything on."""

    def build(phase, out, **sections):
        values = {"data": str(prepared), "out": str(out), "training": FULL}
        if phase == "teacher":
            text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
            text |= {"num_attention_heads": 2, "max_position_embeddings": 8}
            values |= {"vision": vision_fields, "text": text, "vocab_size": 300}
        elif phase in ("semantic", "joint"):
            values |= {"teacher": str(place / "teacher"), "model": model_fields}
        else:
            values |= {"tokenizer": str(place / "tokenizer")}
        if phase in PLAYS:
            values |= {"loss": {"adversarial": ADVERSARIAL}}
        if phase != "teacher":
            values["validation"] = {"data": str(prepared), "every": 3, "num_images": 10}
        for name, fields in sections.items():
            values[name] = values.get(name, {}) | fields
        return values

    return build
