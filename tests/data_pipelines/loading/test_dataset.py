import io
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from PIL import Image

from data_pipelines.images import ImageError, open_image, scale_pixels, to_tensor
from data_pipelines.loading.dataset import PreparedDataset
from data_pipelines.loading.image_dataset import PreparedImages
from data_pipelines.records import Record
from data_pipelines.sources.easy_vqa import read_rows
from runtime.errors import UserError
from runtime.storage import Storage
from tests.prepared import prepare_records, prepare_sources


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """The whole easy-VQA test split in three shards."""
    return prepare_sources(
        "easy-vqa-test", tmp_path_factory.mktemp("data") / "test", shard_size=400
    )


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
    expected = [found.record for found in read_rows("test")]
    assert len(dataset) == len(expected) == 1000
    assert dataset.ids == [record.record_id for record in expected]
    for index in (0, 399, 400, 999, -1):
        assert dataset[index] == expected[index]
        record = expected[index]
        assert dataset.image(index) == (record.record_id, record.image, record.captions[0])
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


def test_reading_writes_nothing_and_a_worker_maps_shards_for_itself(copy):
    dataset = PreparedDataset(copy)
    assert dataset[0].record_id == "easy-vqa-test-000000"
    again = pickle.loads(pickle.dumps(dataset))  # as a spawned worker gets it
    assert again[400] == dataset[400]
    assert sorted(path.name for path in copy.iterdir()) == [
        *(f"data-0000{number}.arrow" for number in range(3)), "manifest.json", "quarantine.jsonl"
    ]  # fmt: skip


def test_the_hugging_face_library_reads_the_shards_too(prepared, tmp_path):
    import datasets

    files = sorted(str(path) for path in prepared.glob("*.arrow"))
    rows = datasets.load_dataset("arrow", data_files=files, split="train", cache_dir=str(tmp_path))
    assert list(rows["id"]) == PreparedDataset(prepared).ids
    assert rows.cast_column("image", datasets.Image())[7]["image"].size == (64, 64)


def test_a_shard_of_nonsense_is_one_sentence(copy):
    shard = copy / "data-00001.arrow"
    shard.write_bytes(bytes(shard.stat().st_size))
    dataset = PreparedDataset(copy)
    assert dataset[0].record_id == "easy-vqa-test-000000"
    with pytest.raises(UserError, match=r"data-00001\.arrow is damaged .*prepare again"):
        dataset[400]


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
def mixed(tmp_path) -> Path:
    """Five records in two shards, of which the second and the fourth are text alone."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "teal").save(buffer, "PNG")
    records = [
        Record(f"r{number}", None, text=f"text {number}")
        if number in (1, 3)
        else Record(f"r{number}", buffer.getvalue(), [f"caption {number}"])
        for number in range(5)
    ]
    return prepare_records(records, tmp_path / "mixed", shard_size=3)


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
    items = [PreparedImages(dataset, 8)[index] for index in range(3)]
    assert [item["caption"] for item in items] == [f"caption {i}" for i in (0, 2, 4)]
    for index, item in enumerate(items):
        image = dataset.image_tensor(index, 8)
        assert torch.equal(scale_pixels(item["pixels"]), image[None])


@pytest.mark.parametrize("version", [1, 2, 99])
def test_another_schema_version_is_refused(copy, version):
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["schema_version"] = version
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(
        UserError, match=f"schema version {version}, this program reads 3; .* prepare again"
    ):
        PreparedDataset(copy)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"counts": {}}, "is no manifest of prepared data; name a folder that semhitok prepare"),
        ({"shards": {}}, "is no manifest of prepared data"),
        ({"shards": [{"file": "a"}]}, "is no manifest of prepared data"),
        ({"shards": "../a.arrow"}, "lists '../a.arrow', which is no file inside it"),
        ({"shards": "/tmp/a.arrow"}, "lists '/tmp/a.arrow', which is no file inside it"),
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
    shard = copy / "data-00001.arrow"
    os.truncate(shard, 1000)
    with pytest.raises(UserError, match=r"data-00001\.arrow has 1,000 bytes"):
        PreparedDataset(copy)
    shard.unlink()
    with pytest.raises(UserError, match=r"data-00001\.arrow is missing"):
        PreparedDataset(copy)
