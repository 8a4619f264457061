"""Published results of SemHiTok and its peers, and where a run's own numbers stand among them.

`published_results.yaml` beside this file has the numbers with their sources. A run's own number is
put into their column only where it was measured alike; else the table says by what it differs,
since a distance on 1,000 small pictures tells nothing about one on ImageNet.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from eval.evaluation_report import Table

FILE = Path(__file__).with_name("published_results.yaml")
TASK_NAMES = {"pope": "POPE", "mme": "MME-P", "seed-bench": "SEED", "gqa": "GQA"}


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


def understanding_table(own: Mapping[str, float], resolution: int | None = None) -> Table:
    """Understanding of the peers in the LLaVA-v1.5 setting, and this run's line.

    Args:
        own: the run's score by the name of its task, in the units of the table.
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
    mine = (f"{own[name]:.4g}" if name in own else "–" for name in TASK_NAMES)
    rows.append(("this run", f"{resolution}²" if resolution else "–", *mine))
    note = f"Setting: {group['setting']}. Source: {group['source']}."
    header = ("Model", "Resolution", *TASK_NAMES.values())
    return Table("Among published results", header, rows, note)
