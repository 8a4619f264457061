import argparse
import hashlib
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from data_pipelines import prepare as prepare_module
from data_pipelines import prepare_part
from data_pipelines.prepare import command, prepare
from semhitok.errors import UserError


@pytest.fixture
def folder(tmp_path) -> Path:
    """Seven good images, one cut short, one whose caption is no UTF-8."""
    root = tmp_path / "images"
    root.mkdir()
    for number in range(7):
        path = root / f"{number}.png"
        Image.new("RGB", (8 + number, 8), (number, 0, 0)).save(path)
        path.with_suffix(".txt").write_text(f"picture {number}\n")
    (root / "3b.png").write_bytes((root / "3.png").read_bytes()[:50])
    (root / "5b.png").write_bytes((root / "5.png").read_bytes())
    (root / "5b.txt").write_bytes(b"\xff")
    return root


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_the_manifest_tells_what_is_there(folder, tmp_path):
    out = prepare([str(folder)], tmp_path / "out", shard_size=3)
    manifest = json.loads((out / "manifest.json").read_text())

    assert manifest["counts"] == {
        "records": 7, "images": 7, "captions": 7, "questions": 0, "conversations": 0, "texts": 0,
        "rejects": 2,
    }  # fmt: skip
    assert manifest["image_width"] == {"min": 8, "max": 14}
    assert manifest["image_height"] == {"min": 8, "max": 8}
    assert manifest["sources"] == [str(folder)]
    assert manifest["schema_version"] == 2
    assert [shard["rows"] for shard in manifest["shards"]] == [3, 2, 2]
    for shard in manifest["shards"]:
        data = (out / shard["file"]).read_bytes()
        assert shard["bytes"] == len(data)
        assert shard["sha256"] == hashlib.sha256(data).hexdigest()
    assert sorted(contents(out)) == [
        *(f"data-0000{i}.parquet" for i in range(3)),
        "manifest.json",
        "quarantine.jsonl",
    ]


def test_rejects_go_to_quarantine_with_their_reason(folder, tmp_path):
    out = prepare([str(folder)], tmp_path / "out")
    lines = (out / "quarantine.jsonl").read_text().splitlines()
    damaged, no_text = map(json.loads, lines)
    assert (damaged["id"], damaged["source"]) == ("3b.png", str(folder))
    assert "damaged" in damaged["reason"]
    assert no_text["id"] == "5b.png"
    assert "not UTF-8" in no_text["reason"]


def test_the_same_input_gives_the_same_bytes(folder, tmp_path):
    first = prepare([str(folder)], tmp_path / "first", shard_size=3)
    second = prepare([str(folder)], tmp_path / "second", shard_size=3)
    assert contents(first) == contents(second)


@pytest.mark.parametrize("num_done", [0, 1, 4, 7])
def test_an_interrupted_run_ends_as_an_undisturbed_one(folder, tmp_path, monkeypatch, num_done):
    expected = contents(prepare([str(folder)], tmp_path / "undisturbed", shard_size=3))
    out = tmp_path / "out"
    check, calls = prepare_part.decode_record, []

    def check_until_killed(record):
        calls.append(record)
        if len(calls) > num_done:
            raise KeyboardInterrupt
        return check(record)

    monkeypatch.setattr(prepare_part, "decode_record", check_until_killed)
    with pytest.raises(KeyboardInterrupt):
        prepare([str(folder)], out, shard_size=3)
    monkeypatch.undo()
    assert not (out / "manifest.json").exists()
    # What a kill in the middle of a write leaves behind.
    (out / "data-00009.parquet").write_bytes(b"half a shard")
    (out / ".manifest.json.0a1b2c3d.tmp").write_bytes(b"{")

    assert contents(prepare([str(folder)], out, shard_size=3)) == expected


def test_a_kill_before_anything_was_written_is_no_obstacle(folder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / ".in_progress.json.0a1b2c3d.tmp").write_bytes(b"{")
    prepare([str(folder)], out)
    assert not list(out.glob(".*"))


def test_a_finished_folder_is_left_as_it_is(folder, tmp_path, monkeypatch):
    out = prepare([str(folder)], tmp_path / "out")
    monkeypatch.setattr(prepare_module, "open_source", lambda name: pytest.fail("read again"))
    assert prepare([str(folder)], out) == out


def test_a_lost_shard_is_made_again(folder, tmp_path):
    out = prepare([str(folder)], tmp_path / "out", shard_size=3)
    expected = contents(out)
    (out / "data-00001.parquet").unlink()
    prepare([str(folder)], out, shard_size=3)
    assert contents(out) == expected


def test_a_folder_that_holds_something_else_is_refused(folder, tmp_path):
    out = prepare([str(folder)], tmp_path / "out")
    before = contents(out)
    with pytest.raises(UserError, match="was prepared with sources"):
        prepare(["easy-vqa-test"], out)
    with pytest.raises(UserError, match="was prepared with shard_size 2000, not 5"):
        prepare([str(folder)], out, shard_size=5)
    assert contents(out) == before
    with pytest.raises(UserError, match="not empty"):
        prepare([str(folder)], folder)
    with pytest.raises(UserError, match="is a file"):
        prepare([str(folder)], folder / "0.png")


def test_too_many_rejects_stop_the_run(folder, tmp_path):
    with pytest.raises(UserError, match=r"more than 1 records were rejected .*5b\.png"):
        prepare([str(folder)], tmp_path / "strict", max_rejects=1)
    assert not (tmp_path / "strict" / "manifest.json").exists()
    prepare([str(folder)], tmp_path / "lenient", max_rejects=2)


def test_nothing_usable_is_no_data_set(tmp_path):
    root = tmp_path / "images"
    root.mkdir()
    (root / "bad.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"no record could be used.*bad\.png"):
        prepare([str(root)], tmp_path / "out")


def test_an_unknown_source_is_answered_with_the_known_ones(tmp_path):
    with pytest.raises(UserError, match="easy-vqa-train, easy-vqa-test, or the path"):
        prepare(["easy-vqa"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_records_of_one_name_are_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "again")
    with pytest.raises(UserError, match=r"two records are called 0\.png"):
        prepare([str(folder), str(tmp_path / "again")], tmp_path / "out")


def test_two_sources_of_one_name_are_refused(folder, tmp_path):
    with pytest.raises(UserError, match=r"images is named twice"):
        prepare([str(folder), str(folder)], tmp_path / "out")


def test_the_command_passes_its_arguments_on(folder, tmp_path):
    args = argparse.Namespace(
        sources=[str(folder)], out=tmp_path / "out", max_rejects=None, shard_size=4,
        num_workers=1, drop_duplicates=False, test_share=0.0,
    )  # fmt: skip
    assert command(args) == tmp_path / "out"
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["shard_size"] == 4
