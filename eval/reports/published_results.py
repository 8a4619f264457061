"""Published results of SemHiTok and its peers, and where a run's own numbers stand among them.

`published_results.yaml` beside this file has the numbers with their sources. A run's own number
goes into their column only where it was measured alike; else the table names the differences, since
a distance on 1,000 small pictures tells nothing about one on ImageNet.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from eval.reports.page import Section

FILE = Path(__file__).with_name("published_results.yaml")
TITLE = "Among published results"
TASK_NAMES = {"pope": "POPE", "mme": "MME-P", "seed-bench": "SEED", "gqa": "GQA"}
OWN_NAMES = {"pope": "pope", "mme": "mme", "seedbench": "seed-bench", "gqa": "gqa"}
"""Our tasks by the names of the file."""


@cache
def published() -> dict[str, Any]:
    """The file's content."""
    content: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return content


def reconstruction_table(summary: Mapping[str, Any]) -> Section:
    """rFID of the peers, and this run's line."""
    group = published()["reconstruction"][0]
    rows = [
        (result["model"], f"{result['resolution']}²", f"{result['value']:.2f}")
        for result in sorted(group["results"], key=lambda r: (r["resolution"], r["value"]))
    ]
    differs = reconstruction_differences(summary)
    own = summary["scores"].get(group["measure"])
    shown = f"not comparable: {'; '.join(differs)}" if differs else f"{own['value']:.2f}"
    rows.append(("this run", f"{summary['resolution']}²", shown))
    note = f"rFID on {group['num_images']:,} images of {group['data']}. Source: {group['source']}."
    return Section(TITLE, header=("Model", "Resolution", "rFID"), rows=rows, note=note)


def reconstruction_differences(summary: Mapping[str, Any]) -> list[str]:
    """How a run differs from the way published rFID is measured; empty where it does not."""
    group = published()["reconstruction"][0]
    differs = []
    if group["measure"] not in summary["scores"]:
        named = [n for n in summary.get("feature_networks", []) if n]
        differs.append(f"feature network {named[0] if named else 'none'}, not Inception-v3")
    if summary["num_images"] != group["num_images"]:
        differs.append(f"{summary['num_images']:,} images, not {group['num_images']:,}")
    if not summary["crop"].startswith("ADM"):
        differs.append("another crop than ADM's")
    resolutions = sorted({result["resolution"] for result in group["results"]})
    if summary["resolution"] not in resolutions:
        differs.append(f"{summary['resolution']}², not {' or '.join(f'{r}²' for r in resolutions)}")
    return differs


def understanding_table(summary: Mapping[str, Any]) -> Section | None:
    """Understanding of the peers in the LLaVA-v1.5 setting, with this run's line.

    Args:
        summary: of `semhitok eval vqa`.

    Returns:
        The table; None for a task without published results.
    """
    group = published()["understanding"]
    name = OWN_NAMES.get(summary["task"])
    if name is None:
        return None
    wanted = group["num_questions"][name]
    if summary["num_questions"] not in wanted:
        own = f"not comparable: {summary['num_questions']:,} questions, not {wanted[0]:,}"
    else:
        value = own_value(summary)
        own = "–" if value is None else f"{value:.4g}"
    rows = [
        (
            result["model"],
            f"{result['resolution']}²" if "resolution" in result else "–",
            *(f"{result[task]:g}" for task in TASK_NAMES),
        )
        for result in group["results"]
    ]
    resolution = summary.get("image_resolution")
    own_cells = (own if task == name else "–" for task in TASK_NAMES)
    rows.append(("this run", f"{resolution}²" if resolution else "–", *own_cells))
    note = (
        f"Setting: {group['setting']}; a run by another recipe differs from theirs in more than "
        f"its tokenizer. Source: {group['source']}."
    )
    header = ("Model", "Resolution", *TASK_NAMES.values())
    return Section(TITLE, header=header, rows=rows, note=note)


def own_value(summary: Mapping[str, Any]) -> float | None:
    """A run's score in the table's units: per cent, the mean of POPE's splits, MME's perception."""
    figures = summary["figures"]
    if summary["task"] == "mme":
        return None if figures["perception"] is None else float(figures["perception"])
    mean = figures.get("mean_accuracy") if summary["task"] == "pope" else None
    return 100 * float(summary["overall"]["accuracy"] if mean is None else mean)
