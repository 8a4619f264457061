import io
import re

import pytest
import torch

from runtime.progress import Progress


class Clock:
    """Stands still until a test moves it; tqdm reads it through the bar."""

    now = 1000.0


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr("tqdm.std.time", lambda: Clock.now)
    Clock.now = 1000.0
    return Clock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run(progress, clock, seconds_per_step, num_steps, **values):
    for _ in range(num_steps):
        clock.now += seconds_per_step
        progress.update(**values)


def test_a_log_gets_a_plain_line_every_five_seconds_and_one_at_the_end(clock):
    stream = io.StringIO()
    with Progress(30, "semantic", stream=stream) as progress:
        run(progress, clock, 1.0, 12, loss=0.41)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "semantic  5/30 step  17%  00:05 elapsed  00:25 left  loss 0.41"
    assert [line.split()[1] for line in lines] == ["5/30", "10/30", "12/30"]


def test_the_end_is_told_once(clock):
    stream = io.StringIO()
    with Progress(10, "semantic", stream=stream) as progress:
        run(progress, clock, 1.0, 10)
    assert stream.getvalue().splitlines()[-1] == "semantic  10/10 step  100%  00:10 elapsed"
    assert stream.getvalue().count("10/10") == 1


def test_resumed_steps_are_done_but_are_no_speed(clock):
    stream = io.StringIO()
    with Progress(100, "mllm", initial=90, stream=stream) as progress:
        run(progress, clock, 2.0, 4)
    assert re.search(r"94/100 step  94%  00:08 elapsed  00:12 left", stream.getvalue())


def test_updates_of_nothing_change_only_the_values(clock):
    stream = io.StringIO()
    with Progress(2, "mllm", stream=stream) as progress:
        progress.update(0, loss=1.0)
        progress.update(2, loss=0.123456)
    assert stream.getvalue().splitlines()[-1] == "mllm  2/2 step  100%  00:00 elapsed  loss 0.1235"


def test_a_terminal_gets_a_bar_with_the_same_words(clock):
    stream = Terminal()
    with Progress(3, "decoder", unit="image", stream=stream) as progress:
        for _ in range(3):
            progress.update(psnr=26.1)
    assert "decoder |" in stream.getvalue()
    assert "3/3 image  100%  00:00 elapsed  psnr 26.1" in stream.getvalue()


def test_a_value_is_read_only_when_it_is_shown_and_keeps_no_graph(clock):
    stream = io.StringIO()
    loss = torch.ones((), requires_grad=True) * 2
    with Progress(9, "pixel", stream=stream) as progress:
        progress.update(loss=loss)
        assert not progress._bar.values["loss"].requires_grad
    assert "loss 2" in stream.getvalue()


def test_other_ranks_are_silent(monkeypatch):
    monkeypatch.setenv("RANK", "3")
    for stream in (io.StringIO(), Terminal()):
        with Progress(1, "decoder", stream=stream) as progress:
            progress.update()
        assert stream.getvalue() == ""
