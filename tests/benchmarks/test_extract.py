import json

import pytest

from benchmarks import extract
from data_pipelines.loading.dataset import PreparedDataset
from tests.mllm.tiny import make_records, prepare_records, save_tiny_tokenizer
from tokenizer.extraction.extract import encode_shards
from tokenizer.saved.model_folder import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return save_tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare_records(make_records(), tmp_path_factory.mktemp("data") / "out")


def test_it_ends_with_one_line_of_numbers(tokenizer, data, capsys):
    options = ["--repeats", "1", "--ranks", "1", "--batch-size", "4"]
    extract.main(["--tokenizer", str(tokenizer), "--data", str(data), *options])
    *table, last = capsys.readouterr().out.splitlines()
    result = json.loads(last)
    assert result["benchmark"] == "extract" and result["num_images"] == 12
    speeds = result["images_per_second"], result["images_per_second_one_by_one"]
    assert result["ratio"] == pytest.approx(speeds[0] / speeds[1])
    assert len(table) == 4


def test_a_launch_prints_its_speed(tokenizer, data, capsys):
    extract.main(["--tokenizer", str(tokenizer), "--data", str(data), "--only-ours"])
    assert json.loads(capsys.readouterr().out)["images_per_second"] > 0
    with pytest.raises(SystemExit):
        extract.main(["--only-ours"])
    assert "needs --tokenizer and --data" in capsys.readouterr().err


def test_both_ways_give_the_same_codes(tokenizer, data):
    model, dataset = load_tokenizer(tokenizer).eval(), PreparedDataset(data)
    alone = extract.one_by_one(model, dataset, 12)
    ((semantic, pixel),) = encode_shards(model, dataset, [range(12)], 1, 5, 0)
    for row, (one_semantic, one_pixel) in enumerate(alone):
        assert (semantic[row] == one_semantic).all() and (pixel[row] == one_pixel).all()
