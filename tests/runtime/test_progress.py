import io

import pytest

from runtime import progress as progress_module
from runtime.progress import Progress, format_duration


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until a test moves it."""

    class Clock:
        now = 1000.0

    monkeypatch.setattr(progress_module.time, "monotonic", lambda: Clock.now)
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
    assert lines[0] == "semantic  5/30 step  16%  0:05 elapsed  0:25 left  loss 0.41"
    assert [line.split()[1] for line in lines] == ["5/30", "10/30", "12/30"]


def test_the_end_is_told_once(clock):
    stream = io.StringIO()
    with Progress(10, "semantic", stream=stream) as progress:
        run(progress, clock, 1.0, 10)
    assert stream.getvalue().splitlines()[-1] == "semantic  10/10 step  100%  0:10 elapsed"
    assert stream.getvalue().count("10/10") == 1


def test_the_start_up_does_not_count(clock):
    progress = Progress(101, "pixel", stream=io.StringIO())
    run(progress, clock, 20.0, 1)
    assert progress.seconds_left() is None
    run(progress, clock, 1.0, 10)
    assert progress.seconds_left() == pytest.approx(90)


def test_the_estimate_follows_the_last_half_minute(clock):
    progress = Progress(1000, "pixel", stream=io.StringIO())
    run(progress, clock, 0.1, 500)
    run(progress, clock, 1.0, 40)
    assert progress.seconds_left() == pytest.approx(460)


def test_steps_slower_than_the_window_still_give_an_estimate(clock):
    progress = Progress(10, "mllm", stream=io.StringIO())
    run(progress, clock, 60.0, 3)
    assert progress.seconds_left() == pytest.approx(7 * 60)


def test_resumed_steps_are_done_but_are_no_speed(clock):
    stream = io.StringIO()
    with Progress(100, "mllm", initial=90, stream=stream) as progress:
        run(progress, clock, 2.0, 4)
        assert progress.seconds_left() == pytest.approx(12)
    assert "94/100 step  94%" in stream.getvalue()


def test_updates_of_nothing_change_only_the_values(clock):
    stream = io.StringIO()
    with Progress(2, "mllm", stream=stream) as progress:
        progress.update(0, loss=1.0)
        progress.update(2, loss=0.123456)
    assert stream.getvalue() == "mllm  2/2 step  100%  0:00 elapsed  loss 0.1235\n"


def test_a_terminal_gets_a_bar_with_the_same_words(clock):
    stream = Terminal()
    with Progress(3, "decoder", unit="image", stream=stream) as progress:
        for _ in range(3):
            progress.update(psnr=26.1)
    assert "decoder |" in stream.getvalue()
    assert "3/3 image  100%  0:00 elapsed  psnr 26.1" in stream.getvalue()


def test_other_ranks_are_silent(monkeypatch):
    monkeypatch.setenv("RANK", "3")
    for stream in (io.StringIO(), Terminal()):
        with Progress(1, "decoder", stream=stream) as progress:
            progress.update()
        assert stream.getvalue() == ""


def test_durations_read_as_clocks():
    assert [format_duration(s) for s in (0, 7.4, 59.6, 750, 3723)] == [
        "0:00",
        "0:07",
        "1:00",
        "12:30",
        "1:02:03",
    ]
