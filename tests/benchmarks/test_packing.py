import json

import pytest
import torch

from benchmarks import packing

TINY = ["--documents", "12", "--batch", "4", "--max-seq-length", "1024", "--width", "32"]


def test_it_counts_useful_tokens(capsys):
    packing.main([*TINY, "--layers", "1", "--repeats", "1"])
    *table, last = capsys.readouterr().out.splitlines()
    record = json.loads(last)
    assert record["benchmark"] == "packing" and len(table) == 2 + 3
    rows = {row["way"]: row for row in record["rows"]}
    assert rows["padded"]["padding"] > rows["groups"]["padding"]
    assert rows["padded"]["padding"] > rows["packed"]["padding"]
    speeds = [rows[way]["useful tokens/s"] for way in ("packed", "padded")]
    assert record["ratio"] == pytest.approx(speeds[0] / speeds[1])


def test_all_ways_give_the_same_gradient():
    torch.manual_seed(0)
    model = packing.make_model(32, 2, 1024)
    documents = packing.make_documents(6, 900, 0)
    ways = {
        "padded": packing.in_order(documents, 3),
        "groups": packing.by_length(documents, 3, 0),
        "packed": packing.packed(documents, 1024),
    }
    gradients = {}
    for way, batches in ways.items():
        # A batch's loss is a mean over rows: weigh it by them, to sum over documents.
        model.zero_grad(set_to_none=True)
        for batch in batches:
            rows = batch["input_ids"].shape[0]
            batch["label_weights"] *= rows
        packing.train(model, batches, way, torch.device("cpu"))
        gradients[way] = model.adapter.semantic[0].weight.grad.clone()
    assert gradients["padded"].abs().max() > 1e-4
    torch.testing.assert_close(gradients["groups"], gradients["padded"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(gradients["packed"], gradients["padded"], atol=1e-5, rtol=1e-4)


def test_the_mixture_is_that_of_the_seed():
    lengths = [list(map(len, packing.make_documents(20, 2048, seed))) for seed in (0, 0, 1)]
    assert lengths[0] == lengths[1] != lengths[2]
    assert sum(kind.count for kind in packing.LLAVA.values()) == 664_000
