"""One progress line for every loop: a bar on a terminal, plain lines in a log.

semantic  120/300 step  40%  0:12 elapsed  0:18 left  loss 0.41
"""

import sys
import time
from collections import deque
from typing import Any, TextIO

from tqdm import tqdm

from runtime.ranks import is_main_rank

RATE_WINDOW = 30.0  # seconds; long enough to smooth validation pauses, short enough to follow load
LINE_INTERVAL = 5.0  # seconds between plain lines
SAMPLE_INTERVAL = 0.2  # seconds between kept times: the window never holds more than 150


class Progress:
    """Shows how far a loop is and how long it will still take; silent on ranks other than 0.

        with Progress(num_steps, "semantic", initial=resume_step) as progress:
            for batch in batches:
                ...
                progress.update(loss=loss)

    Args:
        total: how many units make the whole.
        label: name of the loop, shown first.
        unit: what is counted.
        initial: units done by an earlier run that this one resumes; they don't count as speed.
        stream: where to write; standard error by default.
    """

    def __init__(
        self,
        total: int,
        label: str,
        unit: str = "step",
        initial: int = 0,
        stream: TextIO | None = None,
    ):
        self.total = total
        self.label = label
        self.unit = unit
        self.done = initial
        self._stream = stream if stream is not None else sys.stderr
        self._silent = not is_main_rank()
        self._bar: Any = None
        self._values: dict[str, Any] = {}
        self._samples: deque[tuple[float, int]] = deque()
        self._started = self._last_line = time.monotonic()
        self._last_printed = -1

    def __enter__(self) -> "Progress":
        self._started = self._last_line = time.monotonic()
        if not self._silent and self._stream.isatty():
            # The bar's own estimate averages over the start-up too, so the text is ours; in a list,
            # since tqdm puts a comma before a string.
            text: Any = [self._text()]
            self._bar = tqdm(
                total=self.total,
                initial=self.done,
                desc=self.label,
                file=self._stream,
                dynamic_ncols=True,
                bar_format="{desc} |{bar}| {postfix[0]}",
                postfix=text,
            )
        return self

    def update(self, n: int = 1, **shown_values: Any) -> None:
        """Count `n` more units; `shown_values` are numbers, tensors or strings to show."""
        self.done += n
        if self._silent:
            return
        # Formatted only when shown, since reading a GPU tensor waits for the GPU; detached, so that
        # a loss doesn't keep its graph alive.
        for name, value in shown_values.items():
            self._values[name] = value.detach() if hasattr(value, "detach") else value
        now = time.monotonic()
        self._sample(now)
        if self._bar is not None:
            if now - self._last_line >= self._bar.mininterval:
                self._bar.postfix = [self._text()]
                self._last_line = now
            self._bar.update(n)
        elif now - self._last_line >= LINE_INTERVAL:
            self._print_line(now)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.postfix = [self._text()]
            self._bar.refresh()
            self._bar.close()
        elif not self._silent and self._last_printed != self.done:
            self._print_line(time.monotonic())

    def seconds_left(self) -> float | None:
        """Estimate from the rate of about the last 30 s; None until two updates have been seen."""
        if self.done >= self.total:
            return 0.0
        if len(self._samples) < 2:
            return None
        (first_time, first_done), (last_time, last_done) = self._samples[0], self._samples[-1]
        if last_time <= first_time or last_done <= first_done:
            return None
        seconds_per_unit = (last_time - first_time) / (last_done - first_done)
        return max(0.0, (self.total - self.done) * seconds_per_unit)

    def _sample(self, now: float) -> None:
        """Remember how far the loop was at `now`.

        The first sample is taken after the first update, so what that one paid for compiling,
        caching and loading never enters the rate.
        """
        if self._samples and now - self._samples[-1][0] < SAMPLE_INTERVAL:
            return
        self._samples.append((now, self.done))
        # Two stay even when they are old: units slower than the window still give a rate.
        while len(self._samples) > 2 and now - self._samples[1][0] >= RATE_WINDOW:
            self._samples.popleft()

    def _print_line(self, now: float) -> None:
        print(f"{self.label}  {self._text()}", file=self._stream, flush=True)
        self._last_line = now
        self._last_printed = self.done

    def _text(self) -> str:
        percent = 100 * self.done // self.total if self.total else 100
        parts = [
            f"{self.done}/{self.total} {self.unit}",
            f"{percent}%",
            f"{format_duration(time.monotonic() - self._started)} elapsed",
        ]
        if self.done < self.total:
            left = self.seconds_left()
            parts.append(f"{'?' if left is None else format_duration(left)} left")
        parts.extend(f"{name} {_format_value(value)}" for name, value in self._values.items())
        return "  ".join(parts)


def format_duration(seconds: float) -> str:
    """Seconds as `0:07`, `12:30` or `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _format_value(value: Any) -> str:
    if isinstance(value, (int, str)):
        return str(value)
    return f"{float(value):.4g}"
