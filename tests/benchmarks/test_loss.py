import json

import pytest
import torch
from torch import nn

from benchmarks import loss
from mllm.model import loss as loss_module

TINY = [
    "--text-vocabulary",
    "300",
    "--image-vocabulary",
    "200",
    "--width",
    "8",
    "--tokens",
    "64",
    "32",
]


def test_memory_is_that_of_its_scores(monkeypatch, capsys):
    monkeypatch.setattr(loss_module, "CHUNK_SCORES", 4 * 500)
    loss.main([*TINY, "--with-torch", "--repeats", "1", "--extrapolate", "640"])
    *table, last = capsys.readouterr().out.splitlines()
    record = json.loads(last)
    assert record["benchmark"] == "loss" and record["vocab_size"] == 500
    assert len(table) == 2 + 2 + 1
    assert [row["tokens"] for row in record["rows"]] == [32, 64]
    largest = record["rows"][-1]
    scores = 64 * 500 * 4 / 1e6
    assert 2 * scores <= largest["full MB"] <= 4 * scores
    for way in ("ours", "torch"):
        # Four labels' scores at a time, and a transposed or second gradient of the weight at most.
        assert 4 * 500 * 4 / 1e6 <= largest[f"{way} MB"] <= 0.3 * scores
    assert record["ratio"] == largest["full MB"] / largest["ours MB"]
    assert record["memory_ratio_extrapolated"] > record["ratio"]


def test_all_ways_give_the_same(monkeypatch):
    monkeypatch.setattr(loss_module, "CHUNK_SCORES", 100)
    torch.manual_seed(0)
    head, hidden = nn.Linear(8, 50, bias=False), torch.randn(20, 8)
    case = head, hidden, torch.randint(50, (20,)), torch.rand(20)
    expected = loss.full(*case)
    for way in (loss.ours, loss.by_torch):
        torch.testing.assert_close(way(*case), expected)


def test_a_line_goes_on():
    first = {"tokens": 10} | {f"{way} {unit}": 1.0 for way in loss.WAYS for unit in ("s", "MB")}
    second = {"tokens": 20} | {f"{way} {unit}": 3.0 for way in loss.WAYS for unit in ("s", "MB")}
    row = loss.extrapolate(first, second, 50)
    assert row["tokens"] == 50 and row["full MB"] == row["ours s"] == 9.0


def test_one_size_alone_is_refused(capsys):
    with pytest.raises(SystemExit) as refusal:
        loss.main(["--tokens", "64"])
    assert refusal.value.code == 2
    assert "at least two sizes" in capsys.readouterr().err
