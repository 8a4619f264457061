"""Published results of SemHiTok and its peers, and where a run's own numbers stand among them.

`published_results.yaml` beside this file has the numbers with their sources. A run's own number is
put into their column only where it was measured alike; else the table says by what it differs,
since a distance on 1,000 small pictures tells nothing about one on ImageNet.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from eval.reports.evaluation_page import Table

FILE = Path(__file__).with_name("published_results.yaml")
TASK_NAMES = {"pope": "POPE", "mme": "MME-P", "seed-bench": "SEED", "gqa": "GQA"}
OWN_NAMES = {"pope": "pope", "mme": "mme", "seedbench": "seed-bench", "gqa": "gqa"}
"""Our tasks by the names of the file."""


@cache
def published() -> dict[str, Any]:
    """The file's content."""
    import yaml

    content: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return content


def reconstruction_table(summary: Mapping[str, Any]) -> Table:
    """rFID of the peers, and this run's line."""
    group = published()["reconstruction"][0]
    rows = [
        (result["model"], f"{result['resolution']}²", f"{result['value']:.2f}")
        for result in sorted(group["results"], key=lambda r: (r["resolution"], r["value"]))
    ]
    differs = reconstruction_differences(summary)
    own = summary["scores"].get(group["measure"])
    if own and not differs:
        shown = f"{own['value']:.2f}"
    else:
        shown = "not comparable: " + "; ".join(differs)
    rows.append(("this run", f"{summary['resolution']}²", shown))
    note = f"rFID on {group['num_images']:,} images of {group['data']}. Source: {group['source']}."
    return Table("Among published results", ("Model", "Resolution", "rFID"), rows, note)


def reconstruction_differences(summary: Mapping[str, Any]) -> list[str]:
    """By what a run differs from how the published rFID is measured; empty where by nothing."""
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


def understanding_line(summary: Mapping[str, Any]) -> Table | None:
    """Published results of a benchmark with this run's among them; None where there are none.

    Args:
        summary: of `semhitok eval vqa`.
    """
    name = OWN_NAMES.get(summary["task"])
    if name is None:
        return None
    wanted = published()["understanding"]["num_questions"][name]
    if summary["num_questions"] not in wanted:
        number = f"{summary['num_questions']:,} questions, not {wanted[0]:,}"
        own = f"not comparable: {number}"
    else:
        value = own_value(summary)
        own = "–" if value is None else f"{value:.4g}"
    return understanding_table({name: own}, summary.get("image_resolution"))


def own_value(summary: Mapping[str, Any]) -> float | None:
    """A run's score in the units of the table: per cent, of POPE the mean of its splits, or MME's
    perception."""
    figures = summary["figures"]
    if summary["task"] == "mme":
        return None if figures["perception"] is None else float(figures["perception"])
    mean = figures.get("mean_accuracy") if summary["task"] == "pope" else None
    return 100 * float(summary["overall"]["accuracy"] if mean is None else mean)


def understanding_table(own: Mapping[str, str], resolution: int | None = None) -> Table:
    """Understanding of the peers in the LLaVA-v1.5 setting, and this run's line.

    Args:
        own: what stands in the run's line, by the name of the task.
        resolution: of the run.
    """
    group = published()["understanding"]
    rows = [
        (
            result["model"],
            f"{result['resolution']}²" if "resolution" in result else "–",
            *(f"{result[name]:g}" for name in TASK_NAMES),
        )
        for result in group["results"]
    ]
    shown = f"{resolution}²" if resolution else "–"
    rows.append(("this run", shown, *(own.get(name, "–") for name in TASK_NAMES)))
    note = (
        f"Setting: {group['setting']}; a run by another recipe differs from theirs in more than "
        f"its tokenizer. Source: {group['source']}."
    )
    header = ("Model", "Resolution", *TASK_NAMES.values())
    return Table("Among published results", header, rows, note)
