"""The benchmark of busy machines runs whole, and its one line says what it measured."""

import json

import pytest

from benchmarks import contention
from tests import processes


@pytest.mark.slow
@pytest.mark.timeout(1800)  # thirteen commands, most of them beside busy processes
def test_the_table_and_the_line(capsys, monkeypatch):
    def semhitok(*words: str) -> None:
        finished = processes.run("-m", "semhitok", *words)
        assert finished.returncode == 0, finished.stderr

    monkeypatch.setattr(contention, "_semhitok", semhitok)
    contention.main(["--steps", "1", "--images", "2", "--threads", "1"])
    printed = capsys.readouterr().out.strip().splitlines()
    result = json.loads(printed[-1])
    assert result["benchmark"] == "contention"
    for name in ("pixel_one_busy", "pixel_two_busy", "generate_one_busy", "generate_two_busy"):
        command, _, _ = name.partition("_")
        assert result[name] == result["seconds"][name] / result["seconds"][f"{command}_alone"] > 0
    bars = {"pixel_one_busy": 2.2, "generate_two_busy": 3.0}
    assert result["ratio"] == min(bar / result[name] for name, bar in bars.items())
    assert printed[0].startswith("| command")
