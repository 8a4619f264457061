"""One progress line for every loop, by tqdm: a bar on a terminal, plain lines in a log.

semantic  120/300 step  40%  00:12 elapsed  00:18 left  loss 0.41
"""

import sys
from typing import Any, TextIO

from tqdm import tqdm

from runtime.ranks import is_main_rank

LINE_SECONDS = 5.0
"""Seconds between two plain lines."""
NUMBERS = "{n_fmt}/{total_fmt} {unit}  {percentage:.0f}%  {elapsed} elapsed{left}{shown}"


class Progress:
    """Shows how far a loop is and how long it will still take; silent on ranks other than 0.

        with Progress(num_steps, "semantic", initial=resume_step) as progress:
            for batch in batches:
                ...
                progress.update(loss=loss)

    Args:
        total: units of the whole loop.
        label: name of the loop, shown first.
        unit: name of what is counted.
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
        stream = sys.stderr if stream is None else stream
        terminal = stream.isatty()
        self._bar = _Bar(
            total=total,
            initial=initial,
            desc=label,
            unit=unit,
            file=stream if terminal else _Lines(stream),
            dynamic_ncols=terminal,
            mininterval=0.1 if terminal else LINE_SECONDS,
            maxinterval=LINE_SECONDS,
            miniters=1,
            delay=1,  # no line before the first update ...
            bar_format="{desc} |{bar}| " + NUMBERS if terminal else "{desc}  " + NUMBERS,
            disable=not is_main_rank(),
        )
        self._bar.delay = 0  # ... which need not wait

    def __enter__(self) -> "Progress":
        return self

    def update(self, n: int = 1, **shown_values: Any) -> None:
        """Count `n` more units; `shown_values` are numbers, tensors or strings to show."""
        # Detached, so that a loss doesn't keep its graph alive.
        self._bar.values |= {
            name: value.detach() if hasattr(value, "detach") else value
            for name, value in shown_values.items()
        }
        self._bar.update(n)

    def __exit__(self, *_: object) -> None:
        self._bar.close()


class _Bar(tqdm):
    """A bar that formats its values when it is drawn: reading a GPU tensor waits for the GPU."""

    def __init__(self, *args: Any, **kwargs: Any):
        self.values: dict[str, Any] = {}
        super().__init__(*args, **kwargs)

    @property
    def format_dict(self) -> dict[str, Any]:
        numbers = super().format_dict
        shown = "".join(f"  {name} {_format(value)}" for name, value in self.values.items())
        rate, left = numbers["rate"], numbers["total"] - numbers["n"]
        if rate is None and numbers["elapsed"]:
            rate = (numbers["n"] - numbers["initial"]) / numbers["elapsed"]
        remaining = self.format_interval(left / rate) if rate else "?"
        return {**numbers, "shown": shown, "left": f"  {remaining} left" if left > 0 else ""}


class _Lines:
    """A stream on which each state of a bar is a line of its own."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._last = ""

    def write(self, text: str) -> None:
        line = text.strip("\r\n").rstrip()
        if line and line != self._last:
            self._stream.write(f"{line}\n")
            self._last = line

    def flush(self) -> None:
        self._stream.flush()


def _format(value: Any) -> str:
    return str(value) if isinstance(value, (int, str)) else f"{float(value):.4g}"
