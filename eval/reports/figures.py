"""Pictures of a report, each as text that stands inside the HTML: data URIs and inline SVG."""

import base64
import colorsys
import io
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

INK = "#123457"  # never seen: replaced by currentColor, so that charts follow the reader's theme
LINE = "#4a86e8"  # readable on white and on near-black
MAX_POINTS = 400  # per curve; more makes the file heavy and the picture no clearer
MAX_PANELS = 8
NUM_COLUMNS = 4
NUM_BARS = 24

# Logged beside the losses, but plotted against the step they say nothing about learning.
NOT_PLOTTED = {"step", "epoch", "learning_rate", "lr", "time", "seconds", "total_flos"}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: smaller, and can be searched
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize"), 7),
    **dict.fromkeys(
        ("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color"), INK
    ),
}


@dataclass(frozen=True)
class Picture:
    """An image for an `<img>`: its data URI, and whether it is small enough to show its pixels."""

    uri: str
    pixelated: bool


def embed_picture(source: Path | np.ndarray) -> Picture:
    """Embed a PNG file, or an (h, w, 3) uint8 array."""
    if isinstance(source, Path):
        data = source.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            width = image.width
    else:
        buffer = io.BytesIO()
        Image.fromarray(source).save(buffer, format="PNG")
        data, width = buffer.getvalue(), source.shape[1]
    return Picture("data:image/png;base64," + base64.b64encode(data).decode("ascii"), width < 128)


def categorical_colours(num_colours: int) -> np.ndarray:
    """(n, 3) uint8 colours; those near the front of the list differ most from one another.

    Steps of the golden ratio around the colour circle never come back to an earlier hue, so any
    prefix of the list is spread evenly; lightness takes turns to part neighbours further.
    """
    colours = [
        colorsys.hls_to_rgb((0.58 + i * 0.6180339887) % 1, lightness, (0.62, 0.5)[i % 2])
        for i, lightness in zip(range(num_colours), itertools.cycle((0.52, 0.7, 0.36)))
    ]
    return (np.array(colours).reshape(num_colours, 3) * 255).round().astype(np.uint8)


def code_map(codes: np.ndarray, counts: np.ndarray) -> Picture:
    """Picture of an (h, w) map of codes; frequent codes get the colours that differ most.

    Ranks are by `counts`, how often each code occurs in the whole set, so that one code has one
    colour in all maps of a report.
    """
    rank = np.empty(len(counts), dtype=np.int64)
    rank[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
    return embed_picture(categorical_colours(len(counts))[rank[codes]])


def training_curves(rows: Sequence[Mapping[str, Any]], svg_id: str) -> str | None:
    """One small panel for each number in the lines of a metrics log, losses first; None without.

    The id must be unique within the report: it keeps the ids inside several charts apart.
    """
    series = _series(rows)
    if not series:
        return None
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": svg_id}):
        num_rows = -(-len(series) // NUM_COLUMNS)
        figure = Figure(figsize=(10.4, 1.75 * num_rows), layout="constrained")
        axes = figure.subplots(num_rows, NUM_COLUMNS, squeeze=False).ravel()
        for axis, (name, (steps, values)) in zip(axes, series.items(), strict=False):
            axis.plot(steps, values, color=LINE, linewidth=0.8, alpha=0.35)
            axis.plot(steps, _running_mean(values), color=LINE, linewidth=1.5)
            # A loss that falls over more than a decade is a flat line on a linear axis.
            falls_far = min(values) > 0 and max(values) > 20 * min(values)
            axis.set_yscale("log" if "loss" in name and falls_far else "linear")
            axis.set_title(name, fontsize=9, loc="left")
        for axis in axes[len(series) :]:
            axis.set_axis_off()
        return _to_svg(figure)


def code_frequencies(counts: np.ndarray, svg_id: str) -> str:
    """Codes from the most to the least frequent, against their fraction of all positions.

    `counts`, occurrences of each code, may have any shape; the id is unique within the report.
    """
    fractions = np.sort(counts.ravel())[::-1] / max(counts.sum(), 1)
    used = fractions[fractions > 0]
    # Large codebooks: evenly spaced ranks are enough for a curve without steps.
    ranks = np.unique(np.linspace(0, len(used) - 1, min(len(used), MAX_POINTS)).astype(int))
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": svg_id}):
        figure = Figure(figsize=(10.4, 2.3), layout="constrained")
        axis = figure.subplots()
        floor = used.min() / 2
        axis.fill_between(ranks + 1, used[ranks], floor, color=LINE, alpha=0.25, linewidth=0)
        axis.plot(ranks + 1, used[ranks], color=LINE, linewidth=1.5)
        axis.axvline(len(used), color=INK, linewidth=0.8, linestyle=":")
        axis.set_yscale("log")
        axis.set_ylim(bottom=floor)
        axis.set_xlim(0, len(fractions))
        axis.yaxis.set_major_formatter(lambda fraction, _: f"{100 * fraction:g} %")
        axis.set_title(f"{len(used):,} of {len(fractions):,} occur", fontsize=9, loc="left")
        axis.set_xlabel("code, most frequent first", fontsize=8)
        axis.set_ylabel("fraction of positions", fontsize=8)
        return _to_svg(figure)


def histogram(values: Sequence[float], svg_id: str) -> str:
    """How often values occur; the few furthest out, a hundredth on either side, stand at the ends.

    Whole numbers get bars of equal whole width, or some bars would hold more numbers than others.
    """
    array = np.array(values)
    low, high = np.percentile(array, (1, 99), method="lower")
    whole = array.dtype.kind == "i"
    step = max(1, -(-(high - low + 1) // NUM_BARS)) if whole else (high - low) / NUM_BARS or 1.0
    edges = np.arange(low, high + 1.5 * step, step) - 0.5 * whole
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": svg_id}):
        figure = Figure(figsize=(10.4, 1.6), layout="constrained")
        axis = figure.subplots()
        axis.hist(np.clip(array, edges[0], edges[-1]), edges.tolist(), color=LINE, rwidth=0.92)
        return _to_svg(figure)


def _series(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[list[float], list[float]]]:
    """Name → (steps, values) of every finite number in the log, losses first, thinned."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    for row in rows:
        for name, value in row.items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if "step" in row and name not in NOT_PLOTTED and is_number and np.isfinite(value):
                steps, values = found.setdefault(name, ([], []))
                steps.append(row["step"])
                values.append(float(value))
    names = sorted(found, key=lambda name: (name != "loss", "loss" not in name, name))
    series = {}
    for name in names[:MAX_PANELS]:
        stride = -(-len(found[name][0]) // MAX_POINTS)
        series[name] = (found[name][0][::stride], found[name][1][::stride])
    return series


def _running_mean(values: Sequence[float]) -> np.ndarray:
    """Mean over a centred window of about a twentieth of the curve, narrower at its ends."""
    half = len(values) // 40
    sums = np.concatenate([[0.0], np.cumsum(values)])
    low = np.maximum(np.arange(len(values)) - half, 0)
    high = np.minimum(np.arange(len(values)) + half + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)


def _to_svg(figure: Figure) -> str:
    """The figure as an `<svg>` element that takes its text colour and font from the page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]  # without the XML prolog and the doctype's address
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # matplotlib gives every chart's groups the same ids
    svg = re.sub(r"(font: [\d.]+px) [^;\"]+", r"\1 system-ui, sans-serif", svg)
    return svg.replace(INK, "currentColor")
