import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import ValidationError

from data_pipelines import validate
from data_pipelines.images import open_image
from data_pipelines.loading.dataset import PreparedDataset
from data_pipelines.prepare import part as prepare_part
from data_pipelines.prepare import run as prepare_module
from data_pipelines.records import (
    IMAGE_MARK,
    SCHEMA,
    Conversation,
    Message,
    Record,
    record_to_row,
)
from data_pipelines.shards import writing_shard
from runtime.errors import UserError
from runtime.ranks import rank_and_world
from semhitok.main import main
from tests.prepared import prepare_sources


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
    out = prepare_sources(folder, tmp_path / "out", shard_size=3)
    manifest = json.loads((out / "manifest.json").read_text())

    assert manifest["counts"] == {
        "records": 7, "images": 7, "captions": 7, "questions": 0, "conversations": 0, "texts": 0,
        "rejects": 2, "rejected_parts": 0,
    }  # fmt: skip
    assert manifest["image_width"] == {"min": 8, "max": 14}
    assert manifest["image_height"] == {"min": 8, "max": 8}
    assert manifest["sources"] == [str(folder)]
    assert manifest["schema_version"] == 3
    assert [shard["rows"] for shard in manifest["shards"]] == [3, 2, 2]
    for shard in manifest["shards"]:
        data = (out / shard["file"]).read_bytes()
        assert shard["bytes"] == len(data)
        assert shard["sha256"] == hashlib.sha256(data).hexdigest()
    assert sorted(contents(out)) == [
        *(f"data-0000{i}.arrow" for i in range(3)),
        "manifest.json",
        "quarantine.jsonl",
    ]


def test_rejects_go_to_quarantine_with_their_reason(folder, tmp_path):
    out = prepare_sources(folder, tmp_path / "out")
    lines = (out / "quarantine.jsonl").read_text().splitlines()
    damaged, no_text = map(json.loads, lines)
    assert (damaged["id"], damaged["source"]) == ("3b.png", str(folder))
    assert "damaged" in damaged["reason"]
    assert no_text["id"] == "5b.png"
    assert "not UTF-8" in no_text["reason"]


def test_the_same_input_gives_the_same_bytes(folder, tmp_path):
    first = prepare_sources(folder, tmp_path / "first", shard_size=3)
    second = prepare_sources(folder, tmp_path / "second", shard_size=3)
    assert contents(first) == contents(second)


@pytest.mark.parametrize("num_done", [0, 1, 4, 7])
def test_an_interrupted_run_ends_as_an_undisturbed_one(folder, tmp_path, monkeypatch, num_done):
    expected = contents(prepare_sources(folder, tmp_path / "undisturbed", shard_size=3))
    out = tmp_path / "out"
    check, calls = prepare_part.check_record, []

    def check_until_killed(*arguments):
        calls.append(arguments)
        if len(calls) > num_done:
            raise KeyboardInterrupt
        return check(*arguments)

    monkeypatch.setattr(prepare_part, "check_record", check_until_killed)
    with pytest.raises(KeyboardInterrupt):
        prepare_sources(folder, out, shard_size=3)
    monkeypatch.undo()
    assert not (out / "manifest.json").exists()
    # What a kill in the middle of a write leaves behind.
    (out / "data-00009.arrow").write_bytes(b"half a shard")
    (out / ".manifest.json.0a1b2c3d.tmp").write_bytes(b"{")

    assert contents(prepare_sources(folder, out, shard_size=3)) == expected


def test_a_kill_before_anything_was_written_is_no_obstacle(folder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / ".in_progress.json.0a1b2c3d.tmp").write_bytes(b"{")
    prepare_sources(folder, out)
    assert not list(out.glob(".*"))


def test_a_finished_folder_is_left_as_it_is(folder, tmp_path, monkeypatch, capsys):
    out = prepare_sources(folder, tmp_path / "out")
    assert "finished already" not in capsys.readouterr().err
    monkeypatch.setattr(prepare_module, "open_source", lambda name: pytest.fail("read again"))
    assert prepare_sources(folder, out) == out
    assert "finished already, and left as it is; delete it" in capsys.readouterr().err


def test_a_lost_shard_is_made_again(folder, tmp_path):
    out = prepare_sources(folder, tmp_path / "out", shard_size=3)
    expected = contents(out)
    (out / "data-00001.arrow").unlink()
    prepare_sources(folder, out, shard_size=3)
    assert contents(out) == expected


def test_a_folder_that_holds_something_else_is_refused(folder, tmp_path):
    out = prepare_sources(folder, tmp_path / "out")
    before = contents(out)
    with pytest.raises(UserError, match="was prepared with sources"):
        prepare_sources("easy-vqa-test", out)
    with pytest.raises(UserError, match="was prepared with shard_size 2000, not 5"):
        prepare_sources(folder, out, shard_size=5)
    assert contents(out) == before
    with pytest.raises(UserError, match="not empty"):
        prepare_sources(folder, folder)
    with pytest.raises(ValidationError, match="is a file, not a folder"):
        prepare_sources(folder, folder / "0.png")


@pytest.mark.parametrize("kind", ["", "folder:"])
def test_a_folder_inside_a_source_is_refused(folder, tmp_path, kind):
    link = tmp_path / "link"
    link.symlink_to(folder)
    for out in (folder / "out", folder / "a" / "b", link / "out"):
        with pytest.raises(UserError, match=r"lies inside .*images.*choose a folder outside it"):
            prepare_sources(f"{kind}{folder}", out)
        assert not out.exists()
    prepare_sources(f"{kind}{link}", tmp_path / "images-prepared")


def test_a_source_inside_the_folder_to_write_is_refused(folder):
    with pytest.raises(UserError, match="is not empty and was not written by prepare"):
        prepare_sources(folder, folder.parent)


def test_a_reason_is_one_line_that_a_terminal_can_show(tmp_path, monkeypatch, capsys):
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b"}\n')

    real = validate._check_text

    def check(text, *args):
        if text == "b":
            raise ValueError("first line\n  second \x1b[31mline \udcff")
        return real(text, *args)

    monkeypatch.setattr(validate, "_check_text", check)
    out = prepare_sources(f"jsonl:{path}", tmp_path / "out")
    (line,) = (out / "quarantine.jsonl").read_text().splitlines()
    assert json.loads(line)["reason"] == r"first line second \x1b[31mline \udcff"
    told = capsys.readouterr().err
    assert "1 × first line second" in told and "\x1b" not in told


def test_too_many_rejects_stop_the_run(folder, tmp_path):
    with pytest.raises(UserError, match=r"more than 1 records were rejected .*5b\.png"):
        prepare_sources(folder, tmp_path / "strict", max_rejects=1)
    assert not (tmp_path / "strict" / "manifest.json").exists()
    prepare_sources(folder, tmp_path / "lenient", max_rejects=2)


def test_nothing_usable_is_no_data_set(tmp_path):
    root = tmp_path / "images"
    root.mkdir()
    (root / "bad.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"no record could be used.*bad\.png"):
        prepare_sources(root, tmp_path / "out")


def test_an_unknown_source_is_answered_with_the_known_ones(tmp_path):
    with pytest.raises(UserError, match="easy-vqa-train, easy-vqa-test, or the path"):
        prepare_sources("easy-vqa", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_records_of_one_name_are_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "again")
    with pytest.raises(UserError, match=r"two records are called 0\.png"):
        prepare_sources([str(folder), str(tmp_path / "again")], tmp_path / "out")


def test_two_sources_of_one_name_are_refused(folder, tmp_path):
    with pytest.raises(ValidationError, match=r"images is named twice"):
        prepare_sources([str(folder), str(folder)], tmp_path / "out")


def test_the_command_passes_its_options_on(folder, tmp_path, capsys):
    command = ["prepare", str(folder), "--out", str(tmp_path / "out"), "--shard-size", "4"]
    assert main([*command, "--num-workers", "1"]) == 0
    assert capsys.readouterr().out == f"wrote {tmp_path / 'out'}\n"
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["shard_size"] == 4
    assert main([*command, "--test-fraction", "1"]) == 2
    assert "--test-fraction must be less than 1, not '1'" in capsys.readouterr().err


@pytest.fixture
def repeated(tmp_path) -> Path:
    """Forty pictures; 30 … 39 are 0 … 9 again, in another format with the same pixels."""
    root = tmp_path / "repeated"
    root.mkdir()
    for number in range(40):
        suffix = ".bmp" if number >= 30 else ".png"
        image = Image.new("RGB", (8, 8), (number % 30, 0, 0))
        image.save(root / f"{number:02d}{suffix}")
        (root / f"{number:02d}.txt").write_text(f"picture {number}\n")
    return root


def test_images_that_come_twice_are_counted_or_dropped(repeated, tmp_path):
    kept = prepare_sources(repeated, tmp_path / "kept", shard_size=7)
    manifest = json.loads((kept / "manifest.json").read_text())
    assert (manifest["counts"]["records"], manifest["duplicate_images"]) == (40, 10)
    first = json.loads((kept / "duplicates.jsonl").read_text().splitlines()[0])
    assert first == {"id": "30.bmp", "of": "00.png"}

    dropped = prepare_sources(repeated, tmp_path / "dropped", shard_size=7, drop_duplicates=True)
    manifest = json.loads((dropped / "manifest.json").read_text())
    assert (manifest["counts"]["records"], manifest["counts"]["rejects"]) == (30, 10)
    assert PreparedDataset(dropped).ids == [f"{number:02d}.png" for number in range(30)]
    lines = (dropped / "quarantine.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["reason"] == "its image is the same as that of 00.png"
    assert manifest["rejects_by_reason"] == {"its image is the same as that of": 10}


def test_a_test_split_shares_no_image_with_the_rest(repeated, tmp_path):
    out = prepare_sources(repeated, tmp_path / "out", shard_size=7, test_fraction=0.3)
    sides = [PreparedDataset(out / side) for side in ("train", "test")]
    pixels = [{open_image(record.image).tobytes() for record in side} for side in sides]
    assert not pixels[0] & pixels[1]
    assert sum(map(len, sides)) == 40
    assert 0.1 < len(sides[1]) / 40 < 0.5
    twice = {record.record_id for side in sides for record in side}
    assert len(twice) == 40
    assert prepare_sources(repeated, out, shard_size=7, test_fraction=0.3) == out  # finished
    with pytest.raises(UserError, match=r"prepared with test_fraction 0.3, not 0.2"):
        prepare_sources(repeated, out, shard_size=7, test_fraction=0.2)
    with pytest.raises(UserError, match=r"prepared with test_fraction 0.3, not 0.0"):
        prepare_sources(repeated, out, shard_size=7)


def test_a_conversation_goes_where_its_images_are(repeated, tmp_path):
    turns = [{"from": "human", "value": "<image><image>?"}, {"from": "gpt", "value": "yes"}]
    entries = [
        {"image": [f"{a:02d}.png", f"{b:02d}.png"], "conversations": turns}
        for a in range(12)
        for b in range(a)
    ]
    path = tmp_path / "chat.json"
    path.write_text(json.dumps(entries))
    source = f"llava:{path},images={repeated}"
    out = prepare_sources(source, tmp_path / "out", shard_size=7, test_fraction=0.3)
    num_conversations = 0
    for side in ("train", "test"):
        dataset = PreparedDataset(out / side)
        for record in dataset.texts():
            num_conversations += len(record.conversations)
            for conversation in record.conversations:
                assert set(conversation.images) <= set(dataset.ids)
    lines = list(map(json.loads, (out / "quarantine.jsonl").read_text().splitlines()))
    assert num_conversations and lines
    assert {line["reason"] for line in lines} == {
        "a conversation shows images of both sides of the split"
    }
    assert num_conversations + len(lines) == len(entries)


def test_only_shards_that_lose_records_are_written_again(repeated, tmp_path, monkeypatch):
    written, real = [], writing_shard

    def noted(storage, name):
        written.append(name)
        return real(storage, name)

    monkeypatch.setattr("data_pipelines.prepare.part.writing_shard", noted)
    monkeypatch.setattr("data_pipelines.prepare.finish.writing_shard", noted)
    out = prepare_sources(repeated, tmp_path / "kept", shard_size=10, test_fraction=0.3)
    shards = [path for side in ("train", "test") for path in (out / side).glob("*.arrow")]
    assert len(written) == len(shards)  # each once, in its part
    written.clear()
    out = prepare_sources(repeated, tmp_path / "out", shard_size=15, drop_duplicates=True)
    assert written == ["part-000000-train.arrow", "part-000001-train.arrow",
                       "part-000002-train.arrow"]  # fmt: skip
    names = sorted(path.name for path in out.glob("*.arrow"))
    assert names == ["data-00000.arrow", "data-00001.arrow"]
    written.clear()
    prepare_sources(repeated, tmp_path / "cut", shard_size=7, drop_duplicates=True)
    assert written[6:] == ["data-00004.arrow"]  # 28 … 34, of which 30 … 34 came before


def spoken(record_id: str, colour: int | None, *shown: str) -> Record:
    """A record, with an image unless there is no colour, whose conversation shows others'."""
    image = None
    if colour is not None:
        buffer = io.BytesIO()
        Image.new("RGB", (4, 4), (colour, 0, 0)).save(buffer, "PNG")
        image = buffer.getvalue()
    messages = [Message("user", IMAGE_MARK * len(shown)), Message("assistant", "yes")]
    said = [Conversation(messages, list(shown))] if shown else []
    return Record(record_id, image, conversations=said)


def table_of(path: Path, *records: Record) -> str:
    """A source of these records."""
    rows = [record_to_row(record) for record in records]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)
    return f"parquet:{path}"


@pytest.mark.parametrize("shard_size", [1, 10])
def test_what_shows_the_image_of_a_refused_record_is_refused_too(tmp_path, shard_size):
    source = table_of(
        tmp_path / "chain.parquet",
        spoken("first", 1, "second"),
        spoken("second", 2, "third"),
        spoken("third", 3, "nowhere"),
        spoken("alone", None, "first", "fine"),
        spoken("fine", 4),
        spoken("good", None, "fine"),
    )
    out = prepare_sources(source, tmp_path / "out", shard_size=shard_size)
    assert PreparedDataset(out).ids == ["fine", "good"]
    lines = list(map(json.loads, (out / "quarantine.jsonl").read_text().splitlines()))
    lacking = {line["id"]: line["reason"].split()[6] for line in lines}
    assert lacking == {
        "first": "second,", "second": "third,", "third": "nowhere,", "alone": "first,",
    }  # fmt: skip


def test_what_a_rejected_second_record_shows_is_not_the_firsts(tmp_path):
    source = table_of(
        tmp_path / "twice.parquet", spoken("a", 1), spoken("a", None, "nowhere"), spoken("b", 2)
    )
    out = prepare_sources(source, tmp_path / "out")
    assert PreparedDataset(out).ids == ["a", "b"]


def test_a_second_record_of_one_id_in_one_source_is_rejected(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"id": "a", "text": "one"}\n{"id": "a", "text": "two"}\n')
    out = prepare_sources(f"jsonl:{path}", tmp_path / "out")
    assert [record.text for record in PreparedDataset(out)] == ["one"]
    assert "another record of this id" in (out / "quarantine.jsonl").read_text()


def test_an_object_store_takes_a_prepared_folder_and_gives_it_back(folder, tmp_path, monkeypatch):
    import fsspec

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    url = f"memory://semhitok-{tmp_path.name}/data"
    prepare_sources(folder, url, shard_size=3)
    local = prepare_sources(folder, tmp_path / "local", shard_size=3)
    stored = fsspec.filesystem("memory")
    names = [path.rsplit("/", 1)[-1] for path in stored.find(url.removeprefix("memory:/"))]
    assert sorted(names) == sorted(contents(local))
    for name in names:
        assert stored.cat_file(f"{url.removeprefix('memory:/')}/{name}") == contents(local)[name]
    assert list(PreparedDataset(url)) == list(PreparedDataset(local))
    prepare_sources(folder, url, shard_size=3)  # finished
    with pytest.raises(UserError, match="prepared with shard_size 3, not 4"):
        prepare_sources(folder, url, shard_size=4)
    with pytest.raises(UserError, match="cannot be opened"):
        prepare_sources(folder, "nonsense://bucket/data")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0, 1)),
        ({"RANK": "2", "WORLD_SIZE": "4"}, (2, 4)),
        (
            {
                "SLURM_ARRAY_TASK_ID": "3",
                "SLURM_ARRAY_TASK_MIN": "1",
                "SLURM_ARRAY_TASK_COUNT": "8",
            },
            (2, 8),
        ),
        (
            {  # --array 1-9:4
                "SLURM_ARRAY_TASK_ID": "9",
                "SLURM_ARRAY_TASK_MIN": "1",
                "SLURM_ARRAY_TASK_MAX": "9",
                "SLURM_ARRAY_TASK_STEP": "4",
                "SLURM_ARRAY_TASK_COUNT": "3",
            },
            (2, 3),
        ),
    ],
)
def test_a_process_knows_its_rank(monkeypatch, environment, expected):
    for name in list(os.environ):
        if name.startswith("SLURM_") or name in ("RANK", "WORLD_SIZE"):
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert rank_and_world() == expected


@pytest.mark.parametrize("task", ["1", "3", "7"])
def test_every_task_of_an_array_with_gaps_is_refused(monkeypatch, task):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", task)
    for name, value in {"MIN": "1", "MAX": "7", "STEP": "1", "COUNT": "3"}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    with pytest.raises(UserError, match="have gaps"):
        rank_and_world()


def test_ranks_that_do_not_fit_are_refused(monkeypatch):
    monkeypatch.setenv("RANK", "4")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UserError, match="rank 4 is not in a world of 4"):
        rank_and_world()


@pytest.fixture
def bad(tmp_path) -> Path:
    """A folder of one image, which is none."""
    root = tmp_path / "bad"
    root.mkdir()
    (root / "a.png").write_bytes(b"no image")
    return root


def test_what_the_sentence_says_helps_in_that_folder(folder, bad, tmp_path):
    with pytest.raises(UserError, match="no record could be used"):
        prepare_sources(bad, tmp_path / "out")
    assert "no image" in (tmp_path / "out" / "quarantine.jsonl").read_text()
    (bad / "a.png").write_bytes((folder / "0.png").read_bytes())
    assert PreparedDataset(prepare_sources(bad, tmp_path / "out")).ids == ["a.png"]

    with pytest.raises(UserError, match="into the test split; give another --test-fraction"):
        prepare_sources(bad, tmp_path / "split", test_fraction=1e-9)
    with pytest.raises(UserError, match="into the train split; give another --test-fraction"):
        prepare_sources(bad, tmp_path / "split", test_fraction=0.999999999)
    prepare_sources(bad, tmp_path / "split")

    with pytest.raises(UserError, match="allow more with --max-rejects"):
        prepare_sources(folder, tmp_path / "many", max_rejects=1)
    prepare_sources(folder, tmp_path / "many", max_rejects=2)

    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "0.png").write_bytes((folder / "1.png").read_bytes())
    both = [folder, tmp_path / "more"]
    with pytest.raises(UserError, match=r"two records are called 0\.png.*; rename one"):
        prepare_sources(both, tmp_path / "both")
    (tmp_path / "more" / "0.png").rename(tmp_path / "more" / "own.png")
    prepare_sources(both, tmp_path / "both")


def test_a_damaged_shard_is_made_again_when_the_same_is_asked_for(folder, tmp_path):
    out = prepare_sources(folder, tmp_path / "out", shard_size=3)
    expected = contents(out)
    shard = out / "data-00001.arrow"
    shard.write_bytes(bytes(shard.stat().st_size))
    prepare_sources(folder, out, shard_size=3)
    assert contents(out) == expected


@pytest.mark.parametrize("mask", [0o022, 0o027])
def test_files_have_the_modes_of_the_umask(folder, tmp_path, mask):
    before = os.umask(mask)
    try:
        out = prepare_sources(folder, tmp_path / "out", test_fraction=0.5)
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in out.rglob("*") if path.is_file()}
    assert modes == {0o666 & ~mask}


FULL = """
import resource, signal, sys
sys.dont_write_bytecode = True  # else compiled modules would be cut as well
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
from semhitok.main import main
sys.exit(main(["prepare", *sys.argv[2:]]))
"""


@pytest.mark.parametrize("num_workers", ["1", "2"])
def test_a_full_disk_is_one_sentence_and_the_same_command_resumes(repeated, tmp_path, num_workers):
    for number in range(4):  # more than a file may hold
        noise = np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(repeated / f"x{number}.png")
    out = tmp_path / "out"
    command = [str(repeated), "--out", str(out), "--shard-size", "10", "--num-workers", num_workers]
    full = [sys.executable, "-c", FULL, "20000", *command]
    ended = subprocess.run(full, capture_output=True, text=True)
    assert ended.returncode == 2, ended.stderr
    sentence = ended.stderr.splitlines()[-1]
    assert sentence.startswith("semhitok: error: cannot write") and "parts/" in sentence
    assert "File too large; free some space" in sentence and "Traceback" not in ended.stderr
    assert main(["prepare", *command]) == 0
    expected = prepare_sources(repeated, tmp_path / "expected", shard_size=10)
    assert contents(out) == contents(expected)


def test_two_at_once_end_alike(folder, tmp_path, monkeypatch):
    """Another run finishes while this one is amid its parts."""
    real, out = prepare_part.write_part, tmp_path / "out"

    def overtaken(source, part, *others):
        if part.number == 1:
            monkeypatch.undo()
            prepare_sources(folder, out, shard_size=3)
        return real(source, part, *others)

    monkeypatch.setattr(prepare_module, "write_part", overtaken)
    prepare_sources(folder, out, shard_size=3)
    assert contents(out) == contents(prepare_sources(folder, tmp_path / "alone", shard_size=3))
