import json

import pytest
import torch

from benchmarks import lookup
from tokenizer.model.codebook import GroupedCodebook

TINY = ["--splits", "64x4", "32x8", "--code-dim", "8", "--batch-size", "2", "--num-patches", "16"]


def test_it_ends_with_one_json_line_below_a_table(capsys):
    lookup.main([*TINY, "--repeats", "1", "--seed", "5"])
    *table, last = capsys.readouterr().out.splitlines()
    record = json.loads(last)
    assert record["benchmark"] == "lookup"
    assert record["ratio"] == record["rows"][0]["faster"] > 0
    assert record["memory_ratio"] > 0
    assert [(row["K"], row["M"]) for row in record["rows"]] == [(64, 4), (32, 8)]
    assert len(table) == 4
    assert record["seed"] == 5


def test_memory_at_a_larger_size_is_that_of_its_largest_array(capsys):
    lookup.main(
        ["--splits", "256x16", "--repeats", "1", "--num-patches", "64", "--batch-size", "4"]
    )
    row = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"][0]
    scores = 256 * 256 * 16 * 4 / 1e6  # patches × codes in float32
    table = 256 * 16 * 32 * 4 / 1e6
    assert scores <= row["whole MB"] <= 1.1 * (scores + table)
    assert row["ours MB"] < row["whole MB"] / 4


def test_all_ways_find_a_code_that_is_there():
    codebook = GroupedCodebook(1, 40, 8)
    wanted = torch.randperm(40)
    vectors = codebook.codes[0, wanted]
    assert torch.equal(lookup.whole(codebook, vectors), wanted)
    assert torch.equal(codebook.nearest(vectors), wanted)
    pixel = GroupedCodebook(40, 3, 8)
    pixel_codes = torch.randint(3, (40,))
    flat = lookup.hierarchical(codebook, pixel, vectors, pixel.codes[wanted, pixel_codes])
    assert torch.equal(flat, wanted * 3 + pixel_codes)


@pytest.mark.parametrize("wrong", ["16384", "0x3", "ax3", "1x2x3"])
def test_a_split_that_is_none_is_refused(wrong, capsys):
    with pytest.raises(SystemExit) as refusal:
        lookup.main(["--splits", wrong])
    assert refusal.value.code == 2
    assert "16384x12" in capsys.readouterr().err


def test_the_help_says_what_is_measured(capsys):
    with pytest.raises(SystemExit) as leave:
        lookup.main(["--help"])
    assert leave.value.code == 0
    assert "python -m benchmarks.lookup" in capsys.readouterr().out
