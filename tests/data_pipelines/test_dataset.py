import json
import os
from pathlib import Path

import pytest
import torch

from data_pipelines.dataset import PreparedDataset
from data_pipelines.easy_vqa import read_records
from data_pipelines.images import open_image, to_tensor
from data_pipelines.prepare import prepare
from semhitok.errors import UserError


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """The whole easy-VQA test split in three shards."""
    return prepare(["easy-vqa-test"], tmp_path_factory.mktemp("data") / "test", shard_size=400)


@pytest.fixture
def copy(prepared, tmp_path) -> Path:
    """A copy of the prepared folder that a test may damage."""
    out = tmp_path / "copy"
    out.mkdir()
    for path in prepared.iterdir():
        if path.is_file():
            (out / path.name).write_bytes(path.read_bytes())
    return out


def test_records_come_back_as_the_source_gave_them(prepared):
    dataset = PreparedDataset(prepared)
    expected = list(read_records("test"))
    assert len(dataset) == len(expected) == 1000
    assert dataset.ids == [record.record_id for record in expected]
    for index in (0, 399, 400, 999, -1):
        assert dataset[index] == expected[index]
    assert list(dataset) == expected  # ends with IndexError, as iteration by index must


def test_image_tensors_are_the_pixels_at_their_own_size_and_squares_at_any(prepared):
    dataset = PreparedDataset(prepared)
    original = to_tensor(open_image(dataset[7].image))
    assert torch.equal(dataset.image_tensor(7, 64), original)
    resized = dataset.image_tensor(7, 32)
    assert resized.shape == (3, 32, 32)
    assert resized.abs().max() <= 1.0


def test_the_table_is_memory_mapped_inside_the_prepared_folder(prepared):
    dataset = PreparedDataset(prepared)
    assert dataset[0].record_id == "easy-vqa-test-000000"
    files = [Path(entry["filename"]) for entry in dataset._table.cache_files]
    assert files
    assert all(path.is_relative_to(prepared) for path in files)


def test_the_fingerprint_names_the_content(prepared, copy):
    fingerprint = PreparedDataset(prepared).fingerprint
    assert len(fingerprint) == 64
    assert PreparedDataset(copy).fingerprint == fingerprint
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["shards"][1]["sha256"] = "0" * 64
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert PreparedDataset(copy).fingerprint != fingerprint


def test_a_folder_without_a_manifest_is_refused(tmp_path):
    with pytest.raises(UserError, match="semhitok prepare"):
        PreparedDataset(tmp_path)


def test_another_schema_version_is_refused(copy):
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["schema_version"] = 99
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="schema version 99, this program reads 1"):
        PreparedDataset(copy)


def test_a_missing_or_cut_shard_is_refused_by_name(copy):
    shard = copy / "data-00001.parquet"
    os.truncate(shard, 1000)
    with pytest.raises(UserError, match=r"data-00001\.parquet has 1,000 bytes"):
        PreparedDataset(copy)
    shard.unlink()
    with pytest.raises(UserError, match=r"data-00001\.parquet is missing"):
        PreparedDataset(copy)
