import json

import pytest

from benchmarks import data

TINY = ["--num-images", "8", "--workers", "0", "--repeats", "1", "--num-records", "1000",
        "--num-listed", "4000"]  # fmt: skip


@pytest.mark.slow
def test_it_ends_with_one_json_line(capsys):
    data.main(TINY)
    *table, last = capsys.readouterr().out.splitlines()
    record = json.loads(last)
    assert record["benchmark"] == "data"
    assert record["ratio"] == record["rows"][0]["ratio"] > 0
    assert len(table) == 3 + 2
    assert record["startup"]["open"] < 5
    assert record["memory"]["late_mb"] > 0


def test_both_ways_see_every_image(tmp_path):
    pictures = data._photographs(5, seed=0)
    records = [data.Record(f"p{i}", picture, ["a"]) for i, picture in enumerate(pictures)]
    folder = data.write_prepared(tmp_path / "photos", records, rows_per_shard=2)
    assert data.ours(folder, 0) == data.plain(folder, 0) == 5
