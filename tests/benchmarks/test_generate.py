"""The benchmark of drawing runs whole, and its one line says what it measured."""

import json

from benchmarks import generate


def test_the_table_and_the_line(capsys):
    options = "--tokens 4 --batch-sizes 1 2 --budget 20 --threads 1"
    generate.main([*options.split(), "--no-compiled", "--no-flat-vs-hierarchical"])
    printed = capsys.readouterr().out.strip().splitlines()
    result = json.loads(printed[-1])
    assert [row["batch"] for row in result["rows"]] == [1, 2]
    for row in result["rows"]:
        assert row["of tokens"] == 4
        assert row["times"] == row["ours tokens/s"] / row["transformers tokens/s"] > 0
        assert row["times hierarchical"] > 0
        assert "compilation s" not in row
    assert result["ratio"] == result["rows"][0]["times"] == result["ratios"]["1"]
    assert printed[0].startswith("| batch")
