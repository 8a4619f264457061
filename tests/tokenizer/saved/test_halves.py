"""Either half of a tokenizer by itself."""

import json

import pytest
import torch
from transformers import AutoModel

from runtime.errors import UserError
from tokenizer.model.fingerprint import code_fingerprint
from tokenizer.saved.halves import export_tokenizer, half_of
from tokenizer.saved.model_folder import load_tokenizer, save_tokenizer
from tokenizer.saved.settings import ExportTokenizerSettings


def save_half(whole, half, folder):
    source = folder.with_name(f"{folder.name}-whole")
    save_tokenizer(whole, source)
    export_tokenizer(ExportTokenizerSettings(tokenizer=source, half=half, out=folder))


@pytest.mark.parametrize("use_enhance_decoder", [False, True])
def test_the_halves_do_what_the_whole_does(
    tiny_model, random_images, tmp_path, use_enhance_decoder
):
    whole, images = tiny_model(use_enhance_decoder=use_enhance_decoder), random_images()
    codes = whole.encode(images)
    save_half(whole, "encoder", tmp_path / "encoder")
    save_half(whole, "decoder", tmp_path / "decoder")
    encoder = load_tokenizer(tmp_path / "encoder", needs="encoder").eval()
    decoder = load_tokenizer(tmp_path / "decoder", needs="decoder").eval()
    assert torch.equal(encoder.encode(images).flat, codes.flat)
    assert torch.equal(decoder.decode(codes), whole.decode(codes))
    assert code_fingerprint(encoder) == code_fingerprint(decoder) == code_fingerprint(whole)


def test_a_half_holds_nothing_that_it_does_not_use(tiny_model):
    whole = tiny_model(use_enhance_decoder=True)
    both = {"semantic_codebook", "pixel_sub_codebooks"}
    encoder = dict(half_of(whole, "encoder").named_children())
    assert encoder.keys() == both | {"teacher", "semantic_encoder", "pixel_encoder"}
    decoder = dict(half_of(whole, "decoder").named_children())
    assert decoder.keys() == both | {"enhance_decoder"}
    plain = dict(half_of(tiny_model(), "decoder").named_children())
    assert plain.keys() == both | {"decoder"}


def test_a_half_shares_the_weights_and_leaves_the_whole_as_it_was(tiny_model, random_images):
    whole, images = tiny_model(), random_images()
    expected = whole(images)
    half = half_of(whole, "encoder")
    assert half.teacher_scale.device == whole.teacher_scale.device
    assert torch.equal(half.encode(images).flat, whole.encode(images).flat)
    own = dict(half.named_parameters())
    shared = dict(whole.named_parameters())
    assert all(own[name].data_ptr() == shared[name].data_ptr() for name in own)
    assert torch.equal(whole(images), expected)


def test_the_missing_operation_is_named(tiny_model, random_images):
    whole = tiny_model()
    codes = whole.encode(random_images())
    with pytest.raises(ValueError, match=r"encoder half .* cannot decode codes"):
        half_of(whole, "encoder").decode(codes)
    with pytest.raises(ValueError, match=r"decoder half .* cannot encode images"):
        half_of(whole, "decoder").train().encode(random_images())


@pytest.mark.parametrize(
    ("half", "needs", "cannot"),
    [
        ("encoder", "both", "decode codes"),
        ("encoder", "decoder", "decode codes"),
        ("decoder", "both", "encode images"),
        ("decoder", "encoder", "encode images"),
    ],
)
def test_the_wrong_half_is_refused_before_it_is_used(tiny_model, tmp_path, half, needs, cannot):
    save_half(tiny_model(), half, tmp_path)
    with pytest.raises(UserError, match=f"{half} half of a tokenizer, which cannot {cannot}"):
        load_tokenizer(tmp_path, needs=needs)


def test_auto_classes_load_a_half(tiny_model, random_images, tmp_path):
    whole = tiny_model()
    save_half(whole, "encoder", tmp_path)
    half = AutoModel.from_pretrained(tmp_path).eval()
    images = random_images()
    assert torch.equal(half.encode(images).flat, whole.encode(images).flat)


def test_a_half_is_smaller_by_what_it_leaves_out(tiny_model, tmp_path):
    whole = tiny_model()
    save_half(whole, "decoder", tmp_path)
    index = (tmp_path / "model.safetensors").read_bytes()
    header = json.loads(index[8 : 8 + int.from_bytes(index[:8], "little")])
    header.pop("__metadata__", None)
    stored = sum(int(torch.tensor(entry["shape"]).prod()) for entry in header.values())
    kept = (whole.semantic_codebook, whole.pixel_sub_codebooks, whole.decoder)
    assert stored == sum(p.numel() for part in kept for p in part.parameters())
