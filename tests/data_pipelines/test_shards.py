import os

import pytest

from data_pipelines import shards as module
from data_pipelines.records import Record, record_to_row
from data_pipelines.shards import ShardRows, map_batches, writing_shard
from runtime.errors import UserError
from runtime.storage import Storage


def rows(count: int, size: int = 1) -> list[dict]:
    records = [Record(f"r{i}", bytes(size), [f"caption {i}"]) for i in range(count)]
    return [record_to_row(record) for record in records]


def write(folder, name: str, written: list[dict]) -> dict:
    with writing_shard(Storage(folder), name) as shard:
        for row in written:
            shard.add(row)
    return shard.entry


def test_rows_come_back_by_index_over_all_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ROWS_PER_BATCH", 3)
    written = rows(17)
    entries = [write(tmp_path, f"{i}.arrow", written[i * 7 : i * 7 + 7]) for i in range(3)]
    assert [entry["rows"] for entry in entries] == [7, 7, 3]
    found = ShardRows([tmp_path / entry["file"] for entry in entries], [7, 7, 3])
    assert [found.row(index) for index in range(17)] == written
    assert found.row(8, ["id", "captions"]) == {"id": "r8", "captions": ["caption 8"]}
    ids = [name for batch in found.columns("id") for name in batch.column(0).to_pylist()]
    assert ids == [f"r{i}" for i in range(17)]


def test_a_record_batch_ends_with_its_rows_or_its_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ROWS_PER_BATCH", 4)
    monkeypatch.setattr(module, "BYTES_PER_BATCH", 1000)
    write(tmp_path, "many.arrow", rows(9))
    assert [batch.num_rows for batch in map_batches(tmp_path / "many.arrow")] == [4, 4, 1]
    write(tmp_path, "large.arrow", rows(5, size=600))
    assert [batch.num_rows for batch in map_batches(tmp_path / "large.arrow")] == [2, 2, 1]
    text = record_to_row(Record("r", None, text="x" * 2000))
    write(tmp_path, "texts.arrow", [text, text])
    assert [batch.num_rows for batch in map_batches(tmp_path / "texts.arrow")] == [1, 1]


def test_a_shard_that_is_not_finished_is_absent(tmp_path):
    with pytest.raises(KeyboardInterrupt), writing_shard(Storage(tmp_path), "a.arrow") as shard:
        shard.add(rows(1)[0])
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_a_shard_that_is_cut_is_one_sentence(tmp_path):
    write(tmp_path, "a.arrow", rows(5))
    os.truncate(tmp_path / "a.arrow", 700)
    with pytest.raises(UserError, match=r"a\.arrow is damaged .*run semhitok prepare again"):
        ShardRows([tmp_path / "a.arrow"], [5]).row(0)
