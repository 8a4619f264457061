import io
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from PIL import Image

from data_pipelines.images import ImageError, open_image, to_tensor
from data_pipelines.loading.dataset import PreparedDataset
from data_pipelines.loading.image_dataset import ImageTensors
from data_pipelines.prepare.run import prepare
from data_pipelines.records import Record
from data_pipelines.sources.easy_vqa import read_records
from data_pipelines.sources.source import Source
from runtime.errors import UserError
from runtime.storage import Storage


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
        assert dataset.image(index) == (expected[index].record_id, expected[index].image)
    with pytest.raises(IndexError):
        dataset.image(1000)
    assert list(dataset) == expected  # ends with IndexError, as iteration by index must


def test_image_tensors_are_the_pixels_at_their_own_size_and_squares_at_any(prepared):
    dataset = PreparedDataset(prepared)
    original = to_tensor(open_image(dataset[7].image))
    assert torch.equal(dataset.image_tensor(7, 64), original)
    resized = dataset.image_tensor(7, 32)
    assert resized.shape == (3, 32, 32)
    assert resized.abs().max() <= 1.0


def test_a_shard_is_copied_into_the_folder_when_it_is_first_read(copy):
    dataset = PreparedDataset(copy)
    assert not (copy / ".arrow").exists()
    assert dataset[0].record_id == "easy-vqa-test-000000"
    copies = list((copy / ".arrow").rglob("*.arrow"))
    assert [path.name for path in copies] == ["data-00000.arrow"]
    again = pickle.loads(pickle.dumps(dataset))  # as a spawned worker gets it
    assert again[400] == dataset[400]
    assert len(list((copy / ".arrow").rglob("*"))) == 3  # a folder, and two shards


def test_what_a_killed_copy_has_left_goes_and_one_that_is_done_meanwhile_will_do(
    copy, prepared, monkeypatch
):
    dataset = PreparedDataset(copy)
    expected = PreparedDataset(prepared)
    assert dataset[0] == expected[0]
    (folder,) = (copy / ".arrow").iterdir()
    (folder / ".data-00001.arrow.0123abcd.tmp").write_bytes(b"half")
    assert dataset[400] == expected[400]
    whole = ["data-00000.arrow", "data-00001.arrow"]
    assert sorted(path.name for path in folder.iterdir()) == whole

    real = os.replace

    def another_is_first(temporary, path):
        real(temporary, path)
        real(temporary, path)  # ours is gone

    monkeypatch.setattr("runtime.files.os.replace", another_is_first)
    assert dataset[800] == expected[800]


def test_data_that_cannot_be_written_beside_are_copied_elsewhere(copy, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("data_pipelines.loading.dataset.os.access", lambda *_: False)
    assert PreparedDataset(copy)[999].record_id == "easy-vqa-test-000999"
    assert not (copy / ".arrow").exists()
    assert len(list((tmp_path / "cache" / "semhitok").rglob("*.arrow"))) == 1


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


@pytest.fixture
def mixed(tmp_path, monkeypatch) -> Path:
    """Five records in two shards, of which the second and the fourth are text alone."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "teal").save(buffer, "PNG")
    records = [
        Record(f"r{number}", None, text=f"text {number}")
        if number in (1, 3)
        else Record(f"r{number}", buffer.getvalue(), [f"caption {number}"])
        for number in range(5)
    ]
    source = Source("mixed", "CC0-1.0", "this test", len(records), iter(records))
    monkeypatch.setattr("data_pipelines.prepare.run.open_source", lambda name: source)
    return prepare(["mixed"], tmp_path / "mixed", shard_size=3)


def test_text_alone_stands_beside_images(mixed):
    dataset = PreparedDataset(mixed)
    assert len(dataset) == 5
    assert dataset.manifest["counts"]["images"] == 3
    assert [record.has_image for record in dataset.texts()] == [True, False, True, False, True]
    assert [record.text for record in dataset.texts()][:2] == [None, "text 1"]
    assert dataset[1] == Record("r1", None, text="text 1")
    with pytest.raises(ImageError, match="the record r1 has no image"):
        dataset.image_tensor(1, 8)


def test_whatever_wants_images_sees_only_those(mixed):
    dataset = PreparedDataset(mixed, images_only=True)
    assert len(dataset) == 3
    assert dataset.ids == ["r0", "r2", "r4"]
    assert [record.record_id for record in dataset] == dataset.ids
    assert [record.captions for record in dataset.texts()] == [[f"caption {i}"] for i in (0, 2, 4)]
    assert dataset[-1].record_id == "r4"
    assert dataset.fingerprint == PreparedDataset(mixed).fingerprint
    assert [item["caption"] for item in ImageTensors(dataset, 8)] == [
        f"caption {i}" for i in (0, 2, 4)
    ]


@pytest.mark.parametrize("version", [1, 99])
def test_another_schema_version_is_refused(copy, version):
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["schema_version"] = version
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(
        UserError, match=f"schema version {version}, this program reads 2; .* prepare again"
    ):
        PreparedDataset(copy)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"counts": {}}, "is not one of prepared data; name a folder that semhitok prepare wrote"),
        ({"shards": {}}, "is not one of prepared data"),
        ({"shards": [{"file": "a"}]}, "is not one of prepared data"),
        ({"shards": "../a.parquet"}, "lists '../a.parquet', which is no file inside it"),
        ({"shards": "/tmp/a.parquet"}, "lists '/tmp/a.parquet', which is no file inside it"),
    ],
)
def test_a_manifest_of_something_else_or_of_files_elsewhere_is_refused(
    copy, change, complaint, monkeypatch, tmp_path
):
    path = copy / "manifest.json"
    manifest = json.loads(path.read_text())
    if isinstance(change.get("shards"), str):
        change = {"shards": [manifest["shards"][0] | {"file": change["shards"]}]}
    path.write_text(json.dumps(manifest | change))
    with pytest.raises(UserError, match=complaint):
        PreparedDataset(copy)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    url = f"memory://semhitok-{tmp_path.name}"
    Storage(url).write("manifest.json", path.read_bytes())
    with pytest.raises(UserError):
        PreparedDataset(url)


def test_a_missing_or_cut_shard_is_refused_by_name(copy):
    shard = copy / "data-00001.parquet"
    os.truncate(shard, 1000)
    with pytest.raises(UserError, match=r"data-00001\.parquet has 1,000 bytes"):
        PreparedDataset(copy)
    shard.unlink()
    with pytest.raises(UserError, match=r"data-00001\.parquet is missing"):
        PreparedDataset(copy)
