import json
import time

import pytest
import torch

from benchmarks import protocol

CPU = torch.device("cpu")


def test_calls_are_run_in_turn_and_the_warm_up_is_not_counted():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    seconds = protocol.median_seconds(calls, 3)
    assert order == list("ab" * 4)
    assert seconds.keys() == {"a", "b"}


def test_seconds_are_the_median_of_the_counted_rounds(monkeypatch):
    waits = iter([0.3, 0.01, 0.1, 0.01])
    rounds = []
    medians = protocol.medians
    monkeypatch.setattr(protocol, "medians", lambda found: rounds.append(found) or medians(found))
    seconds = protocol.median_seconds({"wait": lambda: time.sleep(next(waits))}, 3)
    (found,) = rounds
    assert all(a >= b for a, b in zip(found["wait"], [0.01, 0.1, 0.01], strict=True))
    assert seconds == medians(found) == {"wait": sorted(found["wait"])[1]}


def test_peak_memory_counts_what_is_held_at_once():
    def two_at_once():
        first = torch.empty(250_000)
        del first
        second, third = torch.empty(500_000), torch.empty(500_000)
        del second, third

    assert protocol.peak_bytes(two_at_once, CPU) == 4_000_000


def test_what_was_there_before_is_not_counted():
    kept = torch.ones(1_000_000)
    # A few bytes more for the scalar.
    assert 4000 <= protocol.peak_bytes(lambda: kept[:1000] + 1, CPU) < 4100


def test_a_table_is_markdown_of_equal_width(capsys):
    rows = [{"name": "one", "value": 1234.5678}, {"name": "three", "value": 2.0}]
    protocol.print_table(rows)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| name  | value |"
    assert lines[2] == "| one   | 1,235 |"
    assert len({len(line) for line in lines}) == 1


def test_the_closing_line_is_json_that_says_where_it_was_measured(capsys):
    arguments = protocol.make_parser("what", "how").parse_args(["--seed", "7"])
    protocol.print_result("mine", 2.5, arguments, extra=1)
    record = json.loads(capsys.readouterr().out)
    assert (record["seed"], record["repeats"], record["device"]) == (7, 5, "cpu")
    assert (record["benchmark"], record["ratio"], record["extra"]) == ("mine", 2.5, 1)
    assert record["packages"]["torch"].startswith(torch.__version__.split("+")[0])
    assert record["threads"] == torch.get_num_threads()


@pytest.mark.parametrize("wrong", ["0", "-1", "some"])
def test_a_count_below_one_is_refused(wrong, capsys):
    with pytest.raises(SystemExit) as refusal:
        protocol.make_parser("what", "how").parse_args(["--repeats", wrong])
    assert refusal.value.code == 2
    assert "--repeats" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", ["tpu", "cuda:99" if not torch.cuda.is_available() else "gpu"])
def test_a_device_that_is_not_there_is_refused(wrong, capsys):
    with pytest.raises(SystemExit) as refusal:
        protocol.make_parser("what", "how").parse_args(["--device", wrong])
    assert refusal.value.code == 2
    assert "--device" in capsys.readouterr().err
