"""LoRA trains its layers and what is new, on tied and untied language models, and nothing else."""

import copy
from importlib.util import find_spec

import pytest
import torch

import mllm.model.loss
from mllm.init.build import init_mllm
from mllm.init.settings import InitSettings
from mllm.model.lora import add_lora, merge
from mllm.phase.settings import LoRASettings
from mllm.saved.export import merge_lora
from mllm.saved.load import load_model, load_processor
from mllm.saved.settings import MergeSettings
from mllm.training.train import train_mllm
from runtime.errors import UserError
from tests.mllm.tiny import TEXT_CONFIG, image_ids, interrupt, losses_of

SETTINGS = {"rank": 2, "alpha": 4.0, "dropout": 0.0, "targets": []}
NUM_MAPS = 7 * TEXT_CONFIG["num_hidden_layers"]  # q, k, v, o, gate, up, down


@pytest.fixture(scope="module", params=["tied", "untied"])
def start(request, world, tmp_path_factory):
    """A model folder to begin from."""
    if request.param == "tied":
        return world.start
    text = TEXT_CONFIG | {"tie_word_embeddings": False}
    return init_mllm(
        InitSettings(
            tokenizer=world.tokenizer, out=tmp_path_factory.mktemp("untied") / "start",
            text_config=dict(text), text_data=[world.data], vocab_size=320,
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(world, start, tmp_path_factory):
    """A finished LoRA run of 12 steps."""
    out = tmp_path_factory.mktemp("lora")
    return train_mllm(phase(world, start, out))


def phase(world, start, out, **settings):
    lora = LoRASettings(rank=2, alpha=4.0, dropout=0.1)
    return world.phase(out, model=start, checkpoint_every=5, **{"lora": lora, **settings})


def token_ids(model):
    """A row of every kind of token."""
    begin, end = model.config.begin_of_image_token_id, model.config.end_of_image_token_id
    return torch.tensor([[7, begin, *image_ids(model, 3, 14, 0, 5), end, 9, 8]])


def new_rows(model):
    ids = [model.config.begin_of_image_token_id, model.config.end_of_image_token_id]
    return SETTINGS | {"token_ids": ids}


def test_fresh_layers_change_no_logit(start):
    plain = load_model(start).eval()
    lora = copy.deepcopy(plain)
    add_lora(lora, new_rows(plain))
    ids = token_ids(plain)
    logits, expected = lora.eval()(ids).logits, plain(ids).logits
    new = torch.tensor(lora.new_rows.token_ids)
    others = torch.ones(logits.shape[-1], dtype=torch.bool).index_fill_(0, new, False)
    assert torch.equal(logits[..., others], expected[..., others])
    # The same rows, but the product of a narrower matrix rounds otherwise.
    torch.testing.assert_close(logits, expected, atol=1e-6, rtol=0)
    copied = copy.deepcopy(lora)
    with torch.no_grad():
        copied.new_rows.read.add_(1.0)
    assert not torch.equal(copied(ids).logits, plain(ids).logits)
    assert torch.equal(lora(ids).logits, logits)


def test_gradients_reach_the_layers_and_what_is_new_only(start, monkeypatch):
    model = load_model(start)
    add_lora(model, new_rows(model))
    tied = model.config.text_config.tie_word_embeddings
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied
    for parameter in (p for n, p in model.named_parameters() if "lora_B" in n):
        parameter.data.normal_(std=0.1)  # zeros would hide the gradient of lora_A
    ids = token_ids(model)
    for scores in (mllm.model.loss.CHUNK_SCORES, 2 * model.vocabulary.offset):
        monkeypatch.setattr(mllm.model.loss, "CHUNK_SCORES", scores)  # one chunk, then several
        model.zero_grad()
        model(ids, labels=ids).loss.backward()
        moved = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        trains = {n for n, p in model.named_parameters() if p.requires_grad}
        assert moved <= trains
        assert len([n for n in trains if "lora_" in n]) == 2 * NUM_MAPS
        assert {n for n in trains if "lora_" not in n} == {
            n for n, _ in model.named_parameters()
            if n.startswith(("adapter.", "image_head.", "new_rows."))
        }  # fmt: skip
        assert {n for n in trains if n.startswith("new_rows.")} <= moved
        assert {n for n in trains if "lora_" in n} <= moved
        # Each of the two rows, and both ways where they are not tied.
        for rows in (model.new_rows.read, model.new_rows.written):
            assert (rows.grad.abs().sum(-1) > 0).all()


def test_chunks_of_the_loss_know_the_new_rows(start, monkeypatch):
    model = load_model(start)
    add_lora(model, new_rows(model))
    with torch.no_grad():
        model.new_rows.written.add_(0.3)
    ids = token_ids(model)
    whole = model(ids, labels=ids)
    plain = load_model(start)(ids, labels=ids)
    monkeypatch.setattr(mllm.model.loss, "CHUNK_SCORES", 2 * model.vocabulary.offset)
    chunked = model(ids, labels=ids)
    assert chunked.loss.item() == pytest.approx(whole.loss.item(), rel=1e-6)
    assert abs(chunked.text_loss.item() - plain.text_loss.item()) > 1e-3


def test_training_changes_the_layers_and_what_is_new_only(start, trained):
    before, after = load_model(start), load_model(trained)
    old, new = before.state_dict(), after.state_dict()
    rows = after.new_rows
    assert torch.equal(
        new["language_model.model.embed_tokens.weight"],
        old["language_model.model.embed_tokens.weight"],
    )
    for name, value in new.items():
        if "lora_" in name or name.startswith("new_rows."):
            continue
        original = old[name.replace(".base_layer", "")]
        fresh = name.startswith(("adapter.", "image_head."))
        assert torch.equal(value, original) != fresh, name
    b_matrices = [value for name, value in new.items() if "lora_B" in name]
    assert len(b_matrices) == NUM_MAPS and all(value.any() for value in b_matrices)
    embedding = before.get_input_embeddings().weight[rows.token_ids]
    head = before.get_output_embeddings().weight[rows.token_ids]
    assert ((rows.read - embedding).abs().amax(-1) > 1e-4).all()
    assert ((rows.written - head).abs().amax(-1) > 1e-4).all()
    losses = losses_of(trained.parent)
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])


def test_merging_keeps_the_logits_and_makes_a_plain_folder(start, trained, tmp_path):
    merged = merge_lora(MergeSettings(model=trained, out=tmp_path / "merged"))
    plain, lora = load_model(merged).eval(), load_model(trained).eval()
    assert plain.config.lora is None
    assert plain.state_dict().keys() == load_model(start).state_dict().keys()
    ids = token_ids(plain)
    # Measured: 2e-7.
    torch.testing.assert_close(plain(ids).logits, lora(ids).logits, atol=1e-5, rtol=0)
    apart = (plain(ids).logits - load_model(start).eval()(ids).logits).abs().max()
    assert apart > 1e-2  # else nothing was merged
    vocabularies = [load_processor(folder).tokenizer.get_vocab() for folder in (merged, start)]
    assert vocabularies[0] == vocabularies[1]


@pytest.mark.slow
def test_an_interrupted_lora_run_ends_as_an_undisturbed_one(world, start, trained, tmp_path):
    interrupt(phase(world, start, tmp_path))
    resumed = load_model(train_mllm(phase(world, start, tmp_path))).state_dict()
    whole = load_model(trained).state_dict()
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


@pytest.mark.slow
def test_a_second_phase_goes_on_with_the_same_layers_only(world, trained, tmp_path):
    again = train_mllm(phase(world, trained, tmp_path / "same", num_steps=3))
    assert load_model(again).config.lora == load_model(trained).config.lora
    with pytest.raises(UserError, match=r"has LoRA layers with rank 2, not 4; give those settings"):
        train_mllm(phase(world, trained, tmp_path / "a", lora=LoRASettings(rank=4, alpha=4.0)))
    with pytest.raises(UserError, match="has LoRA layers; give a lora section to train them"):
        train_mllm(phase(world, trained, tmp_path / "b", lora=None))


def test_what_lora_cannot_do_is_one_sentence(world, tmp_path):
    with pytest.raises(UserError, match="names 'lm_head', which is no linear map of the decoder"):
        train_mllm(phase(world, world.start, tmp_path, lora=LoRASettings(targets=["lm_head"])))
    with pytest.raises(ValueError, match="optimizer muon is made for whole matrices"):
        phase(world, world.start, tmp_path, optimizer="muon")
    with pytest.raises(ValueError, match="greater than 0"):
        LoRASettings(rank=0)
    with pytest.raises(UserError, match="has no LoRA layers; it is a plain one already"):
        merge_lora(MergeSettings(model=world.start, out=tmp_path / "merged"))
    with pytest.raises(UserError, match="is the model's own folder"):
        merge_lora(MergeSettings(model=world.start, out=world.start))


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_four_bits_without_bitsandbytes_are_one_sentence(world, tmp_path):
    with pytest.raises(UserError, match="needs the package bitsandbytes, which is not installed"):
        train_mllm(phase(world, world.start, tmp_path, lora=LoRASettings(load_in_4bit=True)))


def test_named_targets_alone_get_layers(start):
    model = load_model(start)
    add_lora(model, new_rows(model) | {"targets": ["q_proj", "v_proj"]})
    names = [name for name, _ in model.named_parameters() if "lora_A" in name]
    assert len(names) == 2 * TEXT_CONFIG["num_hidden_layers"]
    merge(model)
    assert not hasattr(model, "new_rows")
    assert not model.get_output_embeddings()._forward_hooks
