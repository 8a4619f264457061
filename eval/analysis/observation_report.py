"""The report of the observation, from what it saved."""

from pathlib import Path

from eval.reports.page import Card, Report, Section
from runtime.files import read_json

PATCHES_FILE = "patches.png"
NUM_SHOWN_PATCHES = 16
KMEANS_VECTORS = 40_000
"""Most patches that k-means of the two baselines is fitted on."""
UNTRAINED = "k-means of an untrained encoder"


def report_observation(folder: Path) -> Report:
    """The report of the measurement in a folder."""
    summary = read_json(folder / "summary.json")
    groupings = summary["groupings"]
    rows = []
    for name, row in groupings.items():
        deviation = row.get("ratio_deviation")
        spread = "" if deviation is None else f" ± {deviation:.2%}"
        ratio = "–" if row["ratio"] is None else f"{row['ratio']:.2%}{spread}"
        within = "–" if row["within_variance"] is None else f"{row['within_variance']:.5f}"
        used = f"{row['num_groups_used']:,} of {row['num_groups']:,}"
        rows.append((name, used, f"{row['num_groups_of_one']:,}", within, ratio))
    untrained, both = groupings[UNTRAINED]["ratio"], groupings["image codes"]["ratio"]
    lead = (
        f"Within a semantic code pixels vary {summary['ratio']:.1%} as much as overall, with the "
        f"codes shuffled over the patches {summary['shuffled_ratio']:.1%}. 0 % would be a code "
        "that tells all of the pixels, 100 % one that tells nothing. As many groups without "
        f"meaning leave {_percent(untrained)}, semantic and pixel codes together {_percent(both)}."
    )
    note = (
        f"{summary['num_patches']:,} patches of {summary['patch_size']}×{summary['patch_size']} "
        f"pixels, from {summary['num_images']:,} images at {summary['resolution']}². Overall "
        f"variance of a pixel: {summary['overall_variance']:.5f}. Rule: {summary['rule']}. K-means "
        "of the pixels is about the least that as many groups can leave; k-means of an untrained "
        "encoder is what groups without meaning leave. Both were fitted on at most "
        f"{KMEANS_VECTORS:,} of the patches."
    )
    header = ("Patches grouped by", "Groups in use", "Of one patch", "Variance within")
    caption = f"{NUM_SHOWN_PATCHES} images with one code each"
    return Report(
        "Do patches that share a semantic code look alike?",
        lead,
        [
            Section("Variance of pixels", header=(*header, "Of overall"), rows=rows, note=note),
            Section(
                "Patches that share a semantic code",
                cards=[Card("A row a code", [(folder / PATCHES_FILE, caption)])],
            ),
        ],
        {key: value for key, value in summary.items() if key != "groupings"},
    )


def _percent(fraction: float | None) -> str:
    return "–" if fraction is None else f"{fraction:.1%}"
