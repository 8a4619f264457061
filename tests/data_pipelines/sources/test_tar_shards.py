"""Webdataset tars, on disk and in a store."""

import io
import json
import tarfile

import pytest

from data_pipelines.loading.dataset import PreparedDataset
from data_pipelines.records import Record, Reject
from data_pipelines.sources.source import open_source
from runtime.errors import UserError
from tests.data_pipelines.small_sources import add, picture, read, tar
from tests.prepared import prepare_sources


def test_webdataset_tars(tmp_path):
    for shard in range(2):
        with tarfile.open(tmp_path / f"{shard:05d}.tar", "w") as archive:
            for number in range(2):
                key = f"d/{shard}{number}"
                add(archive, f"{key}.png", picture(2 * shard + number))
                if number:
                    meta = {"caption": f"json {shard}", "url": "http://example.org", "key": key}
                    add(archive, f"{key}.json", json.dumps(meta).encode())
                else:
                    add(archive, f"{key}.txt", f"text {shard}\n".encode())
    for source in (f"webdataset:{tmp_path}/{{00000..00001}}.tar", f"webdataset:{tmp_path}"):
        records = read(source)
        names = ["00000/d/00", "00000/d/01", "00001/d/10", "00001/d/11"]
        assert [r.record_id for r in records] == names
        assert [r.image for r in records] == [picture(i) for i in range(4)]
        assert [r.captions for r in records] == [["text 0"], ["json 0"], ["text 1"], ["json 1"]]


def test_webdataset_tars_are_streamed_from_a_store(tmp_path):
    import fsspec

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        add(archive, "a.jpg", picture(1))
        add(archive, "a.txt", b"one")
    with fsspec.open("memory://semhitok-test/0.tar", "wb") as file:
        file.write(buffer.getvalue())
    expected = [Record("0/a", picture(1), ["one"])]
    assert read("webdataset:memory://semhitok-test/0.tar") == expected
    assert read("webdataset:memory://semhitok-test/*.tar") == expected
    assert read("webdataset:memory://semhitok-test/") == expected
    with pytest.raises(UserError, match=r"no file matches memory://semhitok-test/\*.tgz"):
        open_source("webdataset:memory://semhitok-test/*.tgz")


def test_samples_numbered_anew_in_each_tar_are_all_kept(tmp_path):
    for folder in ("en", "de"):
        (tmp_path / folder).mkdir()
        for number in range(2):
            tar(tmp_path / folder / f"{number}.tar", ("000.png", picture(number)))
    out = prepare_sources(f"webdataset:{tmp_path}/*/{{0..1}}.tar", tmp_path / "out")
    assert PreparedDataset(out).ids == ["de/0/000", "en/0/000", "de/1/000", "en/1/000"]


def test_columns_of_a_tar_are_keys_of_its_json_and_endings_of_its_files(tmp_path):
    source = tar(
        tmp_path / "0.tar",
        ("a.input.png", picture(1)),
        ("a.png", picture(2)),
        ("a.prompt.txt", b"one"),
        ("a.json", b'{"uid": "u1", "id": 7, "alt": "two"}'),
    )
    (record,) = read(f"{source},image=input.png,caption=prompt.txt,id=uid")
    assert record == Record("u1", picture(1), ["one"])
    (record,) = read(f"{source},caption=alt")
    assert record == Record("0/a", picture(2), ["two"])
    columns = r"input\.png, png, prompt\.txt, json, uid, id, alt"
    with pytest.raises(UserError, match=f"no column 'foto' for image; its columns are: {columns}"):
        open_source(f"{source},image=foto,caption=alt")


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_tar_that_cannot_be_opened_stops_the_run(tmp_path, num_workers):
    place = f"memory://semhitok-{tmp_path.name}"
    with pytest.raises(UserError, match=r"/0.tar cannot be opened .*then run the same command"):
        prepare_sources(
            f"webdataset:{place}/{{0..1}}.tar", tmp_path / "out", num_workers=num_workers
        )
    assert not (tmp_path / "out" / "quarantine.jsonl").exists()


def test_a_store_that_fails_on_the_way_stops_the_run_and_a_tar_cut_short_does_not(
    tmp_path, monkeypatch
):
    import fsspec

    source = tar(tmp_path / "0.tar", *((f"{i:03d}.png", picture(i)) for i in range(60)))
    data = (tmp_path / "0.tar").read_bytes()
    url = f"memory://semhitok-{tmp_path.name}/0.tar"
    with fsspec.open(url, "wb") as file:
        file.write(data[: len(data) // 2 - 100])
    *records, lost, broken = read(f"webdataset:{url}")
    assert lost == Reject(f"0/{len(records):03d}", "the archive breaks off in this sample")
    assert records == read(source)[: len(records)] and 20 < len(records) < 40
    assert broken.record_id == "0.tar" and "breaks off" in broken.reason

    from fsspec.implementations.memory import MemoryFile

    reads = iter(range(3))

    def fails(self, size=-1):
        if next(reads, None) is None:
            raise TimeoutError("the bucket does not answer")
        return super(MemoryFile, self).read(size)

    monkeypatch.setattr(MemoryFile, "read", fails, raising=False)
    with pytest.raises(UserError, match=r"reading .*0.tar failed \(the bucket does not answer\)"):
        read(f"webdataset:{url}")


def test_headers_of_a_tar_that_would_fill_the_memory_are_not_read(tmp_path):
    long = tarfile.TarInfo("././@LongLink")
    long.type = tarfile.GNUTYPE_LONGNAME
    good = io.BytesIO()
    with tarfile.open(fileobj=good, mode="w") as archive:
        add(archive, "a.png", picture(1))
        add(archive, "b.png", picture(2))  # which may have lost a part to what follows
    sample = good.getvalue()[:2048]
    long.size = 3_000_000
    (tmp_path / "0.tar").write_bytes(sample + long.tobuf() + bytes(3_000_832))
    long.size = 512
    (tmp_path / "1.tar").write_bytes(sample + (long.tobuf() + bytes(512)) * 20_000)
    for name, reason in (("0", "a header of 3,000,000 bytes"), ("1", "recursion")):
        record, lost, broken = read(f"webdataset:{tmp_path / name}.tar")
        assert lost.record_id == f"{name}/b"
        assert record == Record(f"{name}/a", picture(1))
        assert "breaks off" in broken.reason and reason in broken.reason


@pytest.mark.parametrize(("cut", "whole"), [(2048, 1), (2148, 1), (2560, 2), (2600, 2)])
def test_a_tar_cut_short_is_not_taken_for_a_whole_one(tmp_path, cut, whole):
    source = tar(tmp_path / "0.tar", *((f"{i}.png", picture(i)) for i in range(4)))
    path = tmp_path / "0.tar"
    path.write_bytes(path.read_bytes()[:cut])  # between two files, in a header, in a file
    *records, lost, broken = read(source)
    assert records == [Record(f"0/{i}", picture(i)) for i in range(whole)]
    assert lost == Reject(f"0/{whole}", "the archive breaks off in this sample")
    assert "breaks off here" in broken.reason


def test_nonsense_in_the_middle_of_a_tar_is_not_taken_for_its_end(tmp_path):
    source = tar(tmp_path / "0.tar", *((f"{i}.png", picture(i)) for i in range(4)))
    path = tmp_path / "0.tar"
    data = bytearray(path.read_bytes())
    data[2048:2560] = b"x" * 512
    path.write_bytes(data)
    *records, lost, broken = read(source)
    assert lost.record_id == "0/1"
    assert records == [Record("0/0", picture(0))] and "breaks off here" in broken.reason
