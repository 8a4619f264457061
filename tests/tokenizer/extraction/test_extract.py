import hashlib
import json
import os
import signal

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from data_pipelines.images import numbered_crop, open_image, to_tensor
from data_pipelines.loading.dataset import PreparedDataset
from data_pipelines.records import Record
from runtime.errors import UserError
from tests.codes import extract
from tests.limits import largest_file
from tests.mllm.tiny import launch
from tests.prepared import prepare_records
from tests.processes import FORKS
from tokenizer.extraction import extract as extraction
from tokenizer.extraction.code_shards import CodeStore
from tokenizer.model.fingerprint import code_fingerprint
from tokenizer.model.modeling_semhitok import SemHiTokModel
from tokenizer.saved.history import phase_record
from tokenizer.saved.model_folder import load_tokenizer, save_tokenizer
from tokenizer.training.settings import SemanticPhaseSettings, TrainingSettings


@pytest.fixture(scope="module")
def tokenizer_folder(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(tiny_model(), folder)
    return folder


@pytest.fixture(scope="module")
def codes(tokenizer_folder, prepared, tmp_path_factory):
    """24 records in shards of 10; only to be read."""
    out = tmp_path_factory.mktemp("codes") / "train"
    return extract(tokenizer_folder, prepared, out, batch_size=7, shard_size=10)


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
    for shard in manifest["shards"]:
        data = (codes / shard["file"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (shard["bytes"], shard["sha256"])
    assert (manifest["semantic_bits"], manifest["pixel_bits"]) == (3, 2)
    assert (manifest["num_records"], manifest["num_crops"]) == (24, 1)
    assert (manifest["num_semantic_codes"], manifest["num_pixel_codes"]) == (8, 4)
    assert manifest["num_image_positions"] == 16


def test_the_batch_size_does_not_change_the_codes(codes, tokenizer_folder, prepared, tmp_path):
    out = extract(tokenizer_folder, prepared, tmp_path / "out", batch_size=24, shard_size=10)
    assert contents(out) == contents(codes)


def test_a_killed_extraction_goes_on_to_the_same_bytes(
    codes, tokenizer_folder, prepared, tmp_path, monkeypatch
):
    real, encoded = extraction.encode_shards, []

    def dies_at_the_third(model, dataset, shards, *args):
        for rows, planes in zip(shards, real(model, dataset, shards, *args), strict=True):
            if len(encoded) == 2:
                raise KeyboardInterrupt
            encoded.append(rows)
            yield planes

    out = tmp_path / "out"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(extraction, "encode_shards", dies_at_the_third)
        extract(tokenizer_folder, prepared, out, batch_size=7, shard_size=10)
    assert not (out / "manifest.json").exists()
    with pytest.raises(UserError, match="no codes"):
        CodeStore(out)
    (out / ".codes-00002.arrow.0a1b2c3d.tmp").write_bytes(b"half a shard")

    again = []
    monkeypatch.setattr(extraction, "encode_shards", lambda *a: again.extend(a[2]) or real(*a))
    extract(tokenizer_folder, prepared, out, batch_size=7, shard_size=10)
    assert again == [range(20, 24)]  # finished shards are not encoded again
    assert contents(out) == contents(codes)


def dies(call, count, *arguments):
    """Extract, and SIGKILL this process at the `count`th call of `os.fsync` or `os.replace`.

    Each of the five files (the claim of the folder, three shards, the manifest) calls both.
    """
    real = getattr(os, call)

    def deadly(*args):
        nonlocal count
        count -= 1
        if count:
            return real(*args)
        if call == "fsync":
            number = args[0] if isinstance(args[0], int) else args[0].fileno()
            os.truncate(f"/proc/self/fd/{number}", 50)  # it may be open for reading alone
        else:
            real(*args)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(os, call, deadly)
    extract(*arguments, batch_size=7, shard_size=10)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "count", "left"),
    [
        ("fsync", 1, set()),
        ("fsync", 3, {"extraction.json", "codes-00000.arrow"}),
        ("replace", 3, {"extraction.json", "codes-00000.arrow", "codes-00001.arrow"}),
        ("fsync", 5, {"extraction.json", *(f"codes-0000{i}.arrow" for i in range(3))}),
    ],
)
def test_sigkill_at_any_moment_costs_no_more_than_a_shard(
    codes, tokenizer_folder, prepared, tmp_path, call, count, left
):
    # A server that has imported everything: a fork of this process could hang in OpenMP.
    arguments = (call, count, tokenizer_folder, prepared, tmp_path)
    process = FORKS.Process(target=dies, args=arguments, daemon=True)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert {name for name in contents(tmp_path) if not name.startswith(".")} == left
    extract(tokenizer_folder, prepared, tmp_path, batch_size=7, shard_size=10)
    assert contents(tmp_path) == contents(codes)


@pytest.mark.slow
def test_two_ranks_write_the_same_bytes(codes, tokenizer_folder, prepared, tmp_path):
    command = ["--tokenizer", tokenizer_folder, "--data", prepared, "--out", tmp_path / "out"]
    command += ["--batch-size", "7", "--shard-size", "10"]
    finished = launch(2, "extract-codes", *map(str, command))
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("wrote ") == 1
    assert contents(tmp_path / "out") == contents(codes)


@pytest.mark.slow
def test_a_refusal_on_two_ranks_is_said_once(codes, tokenizer_folder, prepared):
    command = ["--tokenizer", tokenizer_folder, "--data", prepared, "--out", codes]
    finished = launch(2, "extract-codes", *map(str, command))
    assert finished.returncode != 0
    assert finished.stderr.count("holds codes of another shard size") == 1


def test_the_number_of_workers_does_not_change_the_codes(
    codes, tokenizer_folder, prepared, tmp_path
):
    out = extract(tokenizer_folder, prepared, tmp_path, batch_size=7, shard_size=10, num_workers=1)
    assert contents(out) == contents(codes)


def test_crops_are_those_of_the_images(tokenizer_folder, prepared, codes, tmp_path):
    out = extract(tokenizer_folder, prepared, tmp_path, batch_size=7, num_crops=3)
    model, dataset = load_tokenizer(tokenizer_folder).eval(), PreparedDataset(prepared)
    store, centre = CodeStore(out), CodeStore(codes)
    assert (len(store), store.num_crops) == (24, 3)
    distinct = set()
    for index, record_id in enumerate(dataset.ids):
        image = open_image(dataset[index].image)
        crops = [to_tensor(numbered_crop(image, 32, n, record_id)) for n in range(3)]
        expected = model.encode(torch.stack(crops)).flat.numpy()
        for crop in range(3):
            assert np.array_equal(store.flat(record_id, crop), expected[crop])
            distinct.add(expected[crop].tobytes())
        assert np.array_equal(store.flat(record_id), centre.flat(record_id))
    assert len(distinct) > 24
    with pytest.raises(UserError, match="another number of crops"):
        extract(tokenizer_folder, prepared, out, num_crops=2)


def test_a_damaged_shard_is_made_anew_by_the_same_command(
    codes, tokenizer_folder, prepared, tmp_path
):
    for name, data in contents(codes).items():
        (tmp_path / name).write_bytes(data)
    for number, broken in enumerate((contents(codes)["codes-00000.arrow"], b"")):
        (tmp_path / f"codes-0000{number + 1}.arrow").write_bytes(broken)
    for _ in range(2):  # the second time there is nothing to do
        extract(tokenizer_folder, prepared, tmp_path, batch_size=7, shard_size=10)
        assert contents(tmp_path) == contents(codes)


def test_a_tokenizer_without_pixel_codes_is_refused(prepared, tiny_model, tmp_path):
    training = TrainingSettings(num_steps=1, global_batch_size=1, learning_rate=1e-3)
    settings = SemanticPhaseSettings(
        data=prepared, out=tmp_path, teacher="nowhere", training=training
    )
    record = phase_record(settings, PreparedDataset(prepared))
    save_tokenizer(tiny_model(), tmp_path / "semantic", record)
    with pytest.raises(UserError, match="phase semantic alone; run `semhitok train pixel` first"):
        extract(tmp_path / "semantic", prepared, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_records_without_an_image_are_passed_over(
    codes, tokenizer_folder, prepared, tmp_path, monkeypatch
):
    records = list(PreparedDataset(prepared))
    mixed = [
        item
        for record in records[:10]
        for item in (Record(f"text-{record.record_id}", None, text="a story"), record)
    ]
    data = prepare_records(mixed, tmp_path / "data", shard_size=3)
    store = CodeStore(extract(tokenizer_folder, data, tmp_path / "out", shard_size=4))
    assert len(store) == 10
    assert "text-00.png" not in store
    for record in records[:10]:
        assert np.array_equal(store.flat(record.record_id), CodeStore(codes).flat(record.record_id))


def test_data_without_an_image_is_refused(tokenizer_folder, prepared, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    manifest = json.loads((prepared / "manifest.json").read_text())
    manifest |= {"shards": [], "counts": manifest["counts"] | {"images": 0}}
    (data / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="holds no image; prepare some images"):
        extract(tokenizer_folder, data, tmp_path / "out")


def test_a_folder_of_another_tokenizer_is_refused(codes, prepared, tiny_model, tmp_path):
    save_tokenizer(tiny_model(seed=5), tmp_path / "other")
    with pytest.raises(UserError, match="another tokenizer fingerprint"):
        extract(tmp_path / "other", prepared, codes, shard_size=10)


def test_another_shard_size_is_refused(codes, tokenizer_folder, prepared):
    with pytest.raises(UserError, match="another shard size"):
        extract(tokenizer_folder, prepared, codes, shard_size=11)


def test_a_folder_that_another_extraction_claims_meanwhile_is_left(
    tokenizer_folder, prepared, tmp_path, monkeypatch
):
    real = extraction.ShardPlan.claim

    def claim(self):
        entries = real(self)
        claimed = json.loads((tmp_path / "extraction.json").read_text())
        (tmp_path / "extraction.json").write_text(json.dumps(claimed | {"shard_size": 7}))
        return entries

    monkeypatch.setattr(extraction.ShardPlan, "claim", claim)
    with pytest.raises(UserError, match="another shard size"):
        extract(tokenizer_folder, prepared, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["extraction.json"]


def test_a_full_disk_is_one_sentence_and_the_same_command_resumes(
    codes, tokenizer_folder, prepared, tmp_path
):
    with largest_file(1000), pytest.raises(UserError, match=r"cannot write .*codes-00000\.arrow"):
        extract(tokenizer_folder, prepared, tmp_path, batch_size=7, shard_size=10)
    extract(tokenizer_folder, prepared, tmp_path, batch_size=7, shard_size=10)
    assert contents(tmp_path) == contents(codes)


def test_a_batch_without_bounds_is_encoded_in_parts(
    codes, tokenizer_folder, prepared, tmp_path, monkeypatch
):
    sizes, real = [], SemHiTokModel.encode

    def encode(self, images):
        sizes.append(len(images))
        return real(self, images)

    monkeypatch.setattr(SemHiTokModel, "encode", encode)
    monkeypatch.setattr(extraction, "MAX_PIXELS", 7 * 32**2)
    out = extract(tokenizer_folder, prepared, tmp_path, batch_size=10**9, shard_size=10)
    assert contents(out) == contents(codes)
    assert max(sizes) == 7
    sizes.clear()
    extract(tokenizer_folder, prepared, tmp_path / "crops", batch_size=10**9, num_crops=20)
    assert max(sizes) == 7 and sum(sizes) == 24 * 20


@pytest.mark.parametrize(
    "option", [{"num_crops": 10**6}, {"shard_size": 10**9}, {"num_workers": 10**5}], ids=str
)
def test_counts_that_would_take_the_machine_down_are_refused(option, tokenizer_folder, tmp_path):
    with pytest.raises(ValidationError, match=r"less than or equal|too many for this machine"):
        extract(tokenizer_folder, tmp_path, tmp_path / "out", **option)


def test_shards_of_unknown_origin_are_refused(tokenizer_folder, prepared, tmp_path):
    (tmp_path / "codes-00000.arrow").write_bytes(b"")
    with pytest.raises(UserError, match="unknown origin"):
        extract(tokenizer_folder, prepared, tmp_path)


def test_the_fingerprint_follows_every_code_vector_and_no_decoder(tiny_model):
    model = tiny_model()
    start = code_fingerprint(model)
    assert start == code_fingerprint(tiny_model())
    with torch.no_grad():
        model.decoder.trunk.norm.weight.add_(1)
        model.enhance_decoder.trunk.norm.weight.add_(1)
        model.config.use_enhance_decoder = True
        assert code_fingerprint(model) == start
        model.config.teacher_dtype = "bfloat16"
        assert code_fingerprint(model) != start
        model.config.teacher_dtype = "float32"
        for codebook in (model.semantic_codebook, model.pixel_sub_codebooks):
            before = codebook.codes.clone()
            codebook.codes[0, 1, 2] += 1e-3
            assert code_fingerprint(model) != start
            codebook.codes.copy_(before)
        assert code_fingerprint(model) == start
