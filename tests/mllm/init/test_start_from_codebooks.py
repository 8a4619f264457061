"""New weights know the codebooks before the first step."""

import math
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from mllm.saved.load import load_model
from mllm.training.train import train_mllm
from runtime.errors import UserError
from tests.mllm.init.test_build import extend, save_llm
from tests.mllm.tiny import NUM_PIXEL, NUM_SEMANTIC, image_ids, losses_of
from tokenizer.model.modeling_semhitok import ImageCodes

NUM_CODES = NUM_SEMANTIC * NUM_PIXEL
CODES = torch.arange(NUM_CODES)


@pytest.fixture(scope="module")
def llms(world, tmp_path_factory):
    """Small language models with weights of a size that training gives."""
    root = tmp_path_factory.mktemp("llms")
    return {kind: save_llm(world, root / kind, kind) for kind in ("qwen2", "gemma")}


def entered(model):
    return model.adapter(CODES, model.image_tokenizer, torch.zeros_like(CODES))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["qwen2", "gemma"])
@pytest.mark.parametrize("image_input", ["adapter", "rows"])
def test_image_tokens_enter_as_large_as_text(world, llms, tmp_path, kind, image_input):
    model = load_model(extend(world, llms[kind], tmp_path / "start", image_input=image_input))
    text = model.get_input_embeddings()(torch.arange(model.vocabulary.offset))
    image = entered(model)
    spreads = [(rows - rows.mean(0)).square().mean().sqrt() for rows in (image, text)]
    assert spreads[0] == pytest.approx(spreads[1].item(), rel=0.25)
    torch.testing.assert_close(image.mean(0), text.mean(0), atol=spreads[1].item() * 0.1, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("image_head", ["hierarchical", "flat"])
def test_the_first_loss_is_near_that_of_chance(world, llms, tmp_path, image_head):
    llm = AutoModelForCausalLM.from_pretrained(llms["qwen2"])
    llm.model.norm.weight.fill_(5.0)  # trained models have long hidden states
    shutil.copytree(llms["qwen2"], tmp_path / "llm")
    llm.save_pretrained(tmp_path / "llm")
    losses = {}
    for start in ("codebooks", "random"):
        out = extend(world, tmp_path / "llm", tmp_path / start, image_head=image_head,
                     new_weights=start)  # fmt: skip
        model = load_model(out).eval()
        ids = torch.tensor([[7, 3, *image_ids(model, *range(NUM_CODES))]])
        labels = ids.masked_fill(ids < model.vocabulary.offset, -100)
        output = model(ids, labels=labels)
        losses[start] = (output.semantic_loss + output.pixel_loss).item() / NUM_CODES
    # 15 codes are 2.7 nats. Measured: 3.0 and 2.8, where random rows have 7.9 and 10.3.
    assert losses["codebooks"] < math.log(NUM_CODES) + 0.5
    assert losses["random"] > math.log(NUM_CODES) + 3.0


@torch.no_grad()
def test_codes_that_are_alike_get_rows_that_are_alike(world, llms, tmp_path):
    settings = {"image_head": "flat", "image_input": "rows"}
    model = load_model(extend(world, llms["qwen2"], tmp_path / "start", **settings))
    vectors = model.image_tokenizer.code_vectors(ImageCodes.from_flat(CODES, NUM_PIXEL))
    dim = model.config.image_tokenizer_config.semantic_code_dim
    halves = [half - half.mean(0) for half in (vectors[:, :dim], vectors[:, dim:])]
    vectors = torch.cat([half / half.square().mean().sqrt() for half in halves], 1)
    apart = torch.pdist(vectors)
    for rows in (model.image_head.rows.weight, entered(model)):
        # 14 numbers of a vector go into 32 of a row, which keeps distances but roughly.
        assert torch.corrcoef(torch.stack([torch.pdist(rows), apart]))[0, 1] > 0.7


def test_nothing_else_is_touched_and_a_seed_is_a_start(world, llms, tmp_path):
    states = [
        load_model(extend(world, llms["qwen2"], tmp_path / str(number), **settings)).state_dict()
        for number, settings in enumerate(
            ({}, {}, {"seed": 1}, {"new_weights": "random"}),
        )
    ]
    new = ("adapter.", "image_head.")
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
        if not name.startswith(new):
            assert torch.equal(value, states[2][name]) and torch.equal(value, states[3][name])
    rows = "image_head.rows.weight"
    assert not torch.equal(states[0][rows], states[2][rows])
    assert not torch.equal(states[0][rows], states[3][rows])


def test_plain_rows_train_and_take_a_row_for_each_code(world, llms, tmp_path):
    start = extend(world, llms["qwen2"], tmp_path / "start", image_input="rows")
    before = load_model(start)
    assert before.adapter.codes.weight.shape == (NUM_CODES, 32)
    after = load_model(train_mllm(world.phase(tmp_path / "run", model=start)))
    moved = (after.adapter.codes.weight != before.adapter.codes.weight).any(1)
    assert moved.any()
    losses = losses_of(tmp_path / "run")
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])


def test_an_unknown_way_in_is_one_sentence(world, llms, tmp_path):
    with pytest.raises((UserError, Exception), match="image_input"):
        extend(world, llms["qwen2"], tmp_path / "start", image_input="adaptor")
