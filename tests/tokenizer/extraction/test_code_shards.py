import json
import shutil

import numpy as np
import pyarrow as pa
import pytest

from runtime.errors import UserError
from runtime.files import write_json
from runtime.storage import Storage
from tokenizer.extraction.code_shards import CodesManifest, CodeStore, finished_shard, write_shard

IDS = ["a.png", "ä b.png", "c"]


def make_manifest(**fields):
    sizes = {
        "num_records": 3,
        "num_crops": 2,
        "num_image_positions": 5,
        "num_semantic_codes": 16384,
        "num_pixel_codes": 12,
        "shards": [],
    }
    return CodesManifest("tokenizer", "data", **sizes | fields)


@pytest.fixture
def codes():
    """(3, 2, 5) each: 3 records, 2 crops, 5 positions."""
    draw = np.random.default_rng(0)
    return draw.integers(0, 16384, (3, 2, 5)), draw.integers(0, 12, (3, 2, 5))


@pytest.fixture
def folder(tmp_path, codes):
    """Two shards, of two records and of one."""
    manifest, (semantic, pixel) = make_manifest(), codes
    for number, rows in enumerate((slice(0, 2), slice(2, 3))):
        name = f"codes-{number:05d}.arrow"
        parts = semantic[rows], pixel[rows]
        entry = write_shard(Storage(tmp_path), name, manifest, IDS[rows], *parts)
        manifest.shards.append(entry)
    write_json(tmp_path / "manifest.json", manifest.to_dict())
    return tmp_path


def whole_entry(shard, manifest, ids):
    return finished_shard(Storage(shard.parent), shard.name, manifest, ids)


def test_every_crop_of_every_record_comes_back(folder, codes):
    store, (semantic, pixel) = CodeStore(folder), codes
    assert (len(store), store.num_crops) == (3, 2)
    store.verify()
    for row, record_id in enumerate(IDS):
        assert record_id in store
        for crop in range(2):
            planes = store.planes(record_id, crop)
            assert np.array_equal(planes, [semantic[row, crop], pixel[row, crop]])
            flat = semantic[row, crop] * 12 + pixel[row, crop]
            assert np.array_equal(store.flat(record_id, crop), flat)
        assert np.array_equal(store.flat(record_id), store.flat(record_id, 0))
    with pytest.raises(IndexError, match="crop 2 of 2"):
        store.planes("c", 2)
    with pytest.raises(UserError, match=r"no codes for the record 'nobody\.png'"):
        store.planes("nobody.png")


def test_a_shard_is_an_arrow_file_that_other_programs_read(folder):
    with pa.memory_map(str(folder / "codes-00000.arrow")) as source:
        table = pa.ipc.open_file(source).read_all()
    assert table.column_names == ["record_id", "crop", "semantic", "pixel"]
    assert table.column("record_id").to_pylist() == ["a.png", "a.png", "ä b.png", "ä b.png"]
    assert table.column("crop").to_pylist() == [0, 1, 0, 1]
    assert table.schema.field("semantic").type == pa.binary(9)  # 5 · 14 bits
    assert table.schema.field("pixel").type == pa.binary(3)  # 5 · 4 bits


def test_planes_are_mapped_and_not_copied(folder):
    before = pa.total_allocated_bytes()
    store = CodeStore(folder)
    assert not any(plane.flags.owndata for plane in sum(store._planes, ()))
    assert pa.total_allocated_bytes() - before < 2000


def test_a_shard_that_has_changed_is_noticed(folder):
    shard = folder / "codes-00001.arrow"
    whole = shard.read_bytes()
    manifest = CodeStore(folder).manifest
    assert whole_entry(shard, manifest, IDS[2:]) == manifest.shards[1]
    assert whole_entry(shard, manifest, IDS[:1]) is None
    planes = whole.index(CodeStore(folder)._planes[1][0].tobytes())
    shard.write_bytes(whole[:planes] + bytes([whole[planes] ^ 1]) + whole[planes + 1 :])
    assert whole_entry(shard, manifest, IDS[2:]) is None
    with pytest.raises(UserError, match=r"codes-00001\.arrow is damaged .* again with the same"):
        CodeStore(folder).verify()
    for length in (0, 10, len(whole) - 1):
        shard.write_bytes(whole[:length])
        assert whole_entry(shard, manifest, IDS[2:]) is None
        with pytest.raises(UserError, match=r"codes-00001\.arrow is damaged \(it has "):
            CodeStore(folder)
    shard.unlink()
    with pytest.raises(UserError, match=r"codes-00001\.arrow is missing; run `semhitok extract"):
        CodeStore(folder)


def test_a_file_of_the_right_size_that_is_no_shard_is_named(folder):
    shard = folder / "codes-00001.arrow"
    shard.write_bytes(b"x" * shard.stat().st_size)
    with pytest.raises(UserError, match=r"codes-00001\.arrow is damaged"):
        CodeStore(folder)
    shutil.copy(folder / "codes-00000.arrow", shard)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["shards"][1]["bytes"] = shard.stat().st_size
    write_json(folder / "manifest.json", manifest)
    with pytest.raises(UserError, match=r"codes-00001\.arrow is not the one in its manifest"):
        CodeStore(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 1}, "in the format of version 1, this program reads version 2; extr"),
        ({"schema_version": 3}, "in the format of version 3"),
        ({"tokenizer_fingerprint": None}, "is not a manifest of codes"),
        ({"num_crops": None}, "is incomplete"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_one_sentence(folder, change, message):
    fields = json.loads((folder / "manifest.json").read_text()) | change
    fields = {name: value for name, value in fields.items() if value is not None}
    write_json(folder / "manifest.json", fields)
    with pytest.raises(UserError, match=message):
        CodeStore(folder)


def test_a_full_disk_is_one_sentence(tmp_path, codes, monkeypatch):
    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*: No space left on device; free some"):
        write_shard(Storage(tmp_path), "codes-00000.arrow", make_manifest(), IDS, *codes)
    assert not (tmp_path / "codes-00000.arrow").exists()
