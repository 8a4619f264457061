import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from data_pipelines.dataset import PreparedDataset
from semhitok.errors import UserError
from tokenizer.code_shards import CodesManifest, CodeStore
from tokenizer.extract import extract_codes
from tokenizer.fingerprint import code_fingerprint
from tokenizer.model_folder import load_tokenizer, save_tokenizer


@pytest.fixture(scope="module")
def tokenizer_folder(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(tiny_model(), folder)
    return folder


@pytest.fixture(scope="module")
def codes(tokenizer_folder, prepared, tmp_path_factory):
    """24 records in shards of 10; only to be read."""
    out = tmp_path_factory.mktemp("codes") / "train"
    return extract_codes(tokenizer_folder, prepared, out, batch_size=7, shard_size=10)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_stored_codes_are_those_of_the_model(codes, tokenizer_folder, prepared, all_images):
    expected = load_tokenizer(tokenizer_folder).eval().encode(all_images)
    store, ids = CodeStore(codes), PreparedDataset(prepared).ids
    assert len(store) == len(ids) == 24
    for row, record_id in enumerate(ids):
        assert record_id in store
        semantic, pixel = store.planes(record_id)
        assert semantic.dtype == pixel.dtype == np.int64
        assert np.array_equal(semantic, expected.semantic[row])
        assert np.array_equal(pixel, expected.pixel[row])
        assert np.array_equal(store.flat(record_id), expected.flat[row])


def test_the_manifest_tells_what_the_codes_are(codes, tokenizer_folder, prepared):
    manifest = json.loads((codes / "manifest.json").read_text())
    model = load_tokenizer(tokenizer_folder)
    assert manifest["tokenizer_fingerprint"] == code_fingerprint(model)
    assert manifest["data_fingerprint"] == PreparedDataset(prepared).fingerprint
    assert [shard["rows"] for shard in manifest["shards"]] == [10, 10, 4]
    assert (manifest["num_semantic_codes"], manifest["num_pixel_codes"]) == (8, 4)
    assert manifest["num_image_positions"] == 16


@pytest.mark.parametrize(
    ("num_semantic", "num_pixel", "semantic_dtype", "pixel_dtype"),
    [
        (16384, 12, "uint16", "uint8"),
        (24576, 8, "uint16", "uint8"),
        (256, 256, "uint8", "uint8"),
        (257, 257, "uint16", "uint16"),
        (65536, 1, "uint16", "uint8"),
        (65537, 1, "uint32", "uint8"),
    ],
)
def test_planes_take_the_smallest_type_that_holds_them(
    num_semantic, num_pixel, semantic_dtype, pixel_dtype
):
    manifest = CodesManifest("", "", 1, 1, num_semantic, num_pixel, [])
    assert manifest.semantic_dtype == semantic_dtype
    assert manifest.pixel_dtype == pixel_dtype


def test_a_position_takes_two_bytes_here(codes):
    table = pq.read_table(codes / "codes-00000.parquet")
    assert {len(value.as_py()) for name in ("semantic", "pixel") for value in table[name]} == {16}


def test_the_batch_size_does_not_change_the_codes(codes, tokenizer_folder, prepared, tmp_path):
    out = extract_codes(tokenizer_folder, prepared, tmp_path / "out", batch_size=24, shard_size=10)
    assert contents(out) == contents(codes)


def test_a_killed_extraction_goes_on_to_the_same_bytes(
    codes, tokenizer_folder, prepared, tmp_path, monkeypatch
):
    from tokenizer import extract

    real, encoded = extract._encode, []

    def dies_at_the_third(model, dataset, rows, batch_size, progress):
        if len(encoded) == 2:
            raise KeyboardInterrupt
        encoded.append(rows)
        return real(model, dataset, rows, batch_size, progress)

    out = tmp_path / "out"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(extract, "_encode", dies_at_the_third)
        extract_codes(tokenizer_folder, prepared, out, batch_size=7, shard_size=10)
    assert not (out / "manifest.json").exists()
    with pytest.raises(UserError, match="no codes"):
        CodeStore(out)
    (out / "codes-00002.tmp").write_bytes(b"half a shard")

    again = []
    monkeypatch.setattr(extract, "_encode", lambda *a: again.append(a[2]) or real(*a))
    extract_codes(tokenizer_folder, prepared, out, batch_size=7, shard_size=10)
    assert again == [range(20, 24)]  # finished shards are not encoded again
    assert contents(out) == contents(codes)


def test_a_folder_of_another_tokenizer_is_refused(codes, prepared, tiny_model, tmp_path):
    save_tokenizer(tiny_model(seed=5), tmp_path / "other")
    with pytest.raises(UserError, match="another tokenizer fingerprint"):
        extract_codes(tmp_path / "other", prepared, codes, shard_size=10)


def test_another_shard_size_is_refused(codes, tokenizer_folder, prepared):
    with pytest.raises(UserError, match="another shard size"):
        extract_codes(tokenizer_folder, prepared, codes, shard_size=11)


def test_shards_of_unknown_origin_are_refused(tokenizer_folder, prepared, tmp_path):
    (tmp_path / "codes-00000.parquet").write_bytes(b"")
    with pytest.raises(UserError, match="unknown origin"):
        extract_codes(tokenizer_folder, prepared, tmp_path)


def test_an_unknown_record_is_named(codes):
    with pytest.raises(UserError, match=r"no codes for the record 'nobody\.png'"):
        CodeStore(codes).planes("nobody.png")


def test_a_missing_or_damaged_shard_is_named(codes, tmp_path):
    for name, data in contents(codes).items():
        (tmp_path / name).write_bytes(data)
    shard = tmp_path / "codes-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(UserError, match=r"codes-00001.parquet .*damaged"):
        CodeStore(tmp_path)
    shard.unlink()
    with pytest.raises(UserError, match=r"codes-00001.parquet is missing"):
        CodeStore(tmp_path)


def test_the_fingerprint_follows_every_code_vector_and_no_decoder(tiny_model):
    model = tiny_model()
    start = code_fingerprint(model)
    assert start == code_fingerprint(tiny_model())
    with torch.no_grad():
        model.decoder.trunk.norm.weight.add_(1)
        model.enhance_decoder.trunk.norm.weight.add_(1)
        model.config.use_enhance_decoder = True
        assert code_fingerprint(model) == start
        for codebook in (model.semantic_codebook, model.pixel_sub_codebooks):
            before = codebook.codes.clone()
            codebook.codes[0, 1, 2] += 1e-3
            assert code_fingerprint(model) != start
            codebook.codes.copy_(before)
        assert code_fingerprint(model) == start
