"""GenEval's rule: whether the objects that a detector found are what the prompt asked for.

A pure function of detections, so it can be tested without a detector, and used with any. It follows
`evaluation/evaluate_images.py` of the benchmark (arXiv 2310.11513), its habits included:

- Colour and position are looked at on the most confident objects alone, as many as asked for.
- Position is not looked at where the colour was wrong, and fails where its target failed.
- "exclude" fails an image with too many objects; it is how counting refuses one too many.

Boxes are (left, top, right, bottom) in pixels; y grows downwards.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.measures.intervals import wilson_interval

THRESHOLD = 0.3
"""Confidence above which an object counts as found."""
COUNTING_THRESHOLD = 0.9
"""The same in the task "counting"."""
MAX_OBJECTS = 16
"""Objects of one class that are looked at, the most confident ones."""
POSITION_MARGIN = 0.1
"""Fraction of both objects' sides by which their centres must be further apart."""
SAME_PLACE = 1e-3
"""Pixels of offset below which two objects stand nowhere to each other."""

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
COLOURS = (
    "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white",
)  # fmt: skip
RULE = (
    "GenEval (arXiv 2310.11513): confidence .3, in counting .9; at most 16 objects of a class; no "
    "suppression of overlaps; position margin .1; colours of the crop before #999; score: mean of "
    "the tasks' means"
)


@dataclass(frozen=True)
class Detection:
    """One object that a detector found, by the benchmark's name of its class."""

    label: str
    score: float
    """Confidence in [0, 1]."""
    box: tuple[float, float, float, float]
    mask: np.ndarray | None = None
    """(H, W) bool, where the detector gives one."""


ColourOf = Callable[[Detection], str]
"""Names the colour of an object, one of `COLOURS`."""


def judge(
    metadata: Mapping[str, Any], detections: Sequence[Detection], colour_of: ColourOf
) -> tuple[bool, list[str]]:
    """Judge one image.

    Args:
        metadata: the prompt's line of the benchmark: `tag`, `include` [{class, count, color?,
            position?: [relation, index of the target in `include`]}], `exclude` [{class, count}].
        detections: of the image, in any order and with any confidence.
        colour_of: asked only for the objects whose colour matters.

    Returns:
        Whether all is as asked, and one clause for each thing that is not.
    """
    found = keep(detections, metadata["tag"])
    wrong: list[str] = []
    groups: list[Sequence[Detection] | None] = []
    for wanted in metadata.get("include", []):
        objects = found.get(wanted["class"], [])[: wanted["count"]]
        if fault := _fault(wanted, objects, groups, colour_of):
            wrong.append(fault)
        groups.append(None if fault else objects)
    for unwanted in metadata.get("exclude", []):
        number = len(found.get(unwanted["class"], []))
        if number >= unwanted["count"]:
            wrong.append(f"{number} of {unwanted['class']}, wanted below {unwanted['count']}")
    return not wrong, wrong


def complaint(metadata: Mapping[str, Any]) -> str | None:
    """Why a line of the prompt file cannot be judged, as a clause; None where it can."""
    if metadata.get("tag") not in TASKS:
        return f"has the tag {metadata.get('tag')!r}, and GenEval's are {', '.join(TASKS)}"
    for name in ("include", "exclude"):
        entries = metadata.get(name, [])
        for index, entry in enumerate(entries if isinstance(entries, list) else [None]):
            if not isinstance(entry, dict) or not isinstance(entry.get("class"), str):
                return f'has no list {name!r} of objects with "class" and "count"'
            if not isinstance(entry.get("count"), int) or entry["count"] < 1:
                return f'has no "count" above zero for {entry["class"]!r}'
            match entry.get("position"):
                case None:
                    continue
                case [str(), int(target)] if 0 <= target < index:
                    continue
            return f"has a position of {entry['class']!r} to nothing named before it"
    return None


def keep(detections: Sequence[Detection], tag: str) -> dict[str, list[Detection]]:
    """The objects that count, by class, the most confident first."""
    threshold = COUNTING_THRESHOLD if tag == "counting" else THRESHOLD
    found: dict[str, list[Detection]] = defaultdict(list)
    for detection in sorted(detections, key=lambda d: -d.score):
        if detection.score > threshold and len(found[detection.label]) < MAX_OBJECTS:
            found[detection.label].append(detection)
    return {label: objects for label, objects in found.items() if objects}


def relations(one: Detection, other: Detection) -> set[str]:
    """Where `one` stands to `other`: left of, right of, above, below; two at most, or none.

    The offset of the centres is shortened on each axis by `POSITION_MARGIN` of both sides there;
    what is left, over the length of the whole offset, must exceed one half.
    """
    boxes = np.array([one.box, other.box], dtype=float).reshape(2, 2, 2)
    centres, sides = boxes.mean(axis=1), np.abs(boxes[:, 1] - boxes[:, 0])
    offset = centres[0] - centres[1]
    left_over = np.maximum(np.abs(offset) - POSITION_MARGIN * sides.sum(axis=0), 0)
    if (left_over < SAME_PLACE).all():
        return set()
    x, y = np.sign(offset) * left_over / np.linalg.norm(offset)
    seen = {"left of": -x, "right of": x, "above": -y, "below": y}
    return {name for name, fraction in seen.items() if fraction > 0.5}


def score(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The benchmark's score of judged images, by `tag`, `prompt` and `correct` of each.

    Returns:
        `accuracy`: the mean of the tasks' means, the number that is published; `by_task` with the
        fraction of right images, its interval and their number; `image_accuracy` over all images;
        and `prompt_accuracy`, the fraction of prompts with at least one right image.
    """
    tasks: dict[str, list[bool]] = defaultdict(list)
    prompts: dict[tuple[str, str], bool] = defaultdict(bool)
    for row in rows:
        tasks[row["tag"]].append(row["correct"])
        prompts[row["tag"], row["prompt"]] |= row["correct"]
    means = {tag: sum(right) / len(right) for tag, right in tasks.items()}
    return {
        "accuracy": sum(means.values()) / len(means),
        "by_task": {
            tag: {
                "accuracy": means[tag],
                "interval": list(wilson_interval(sum(right), len(right))),
                "num_images": len(right),
            }
            for tag, right in tasks.items()
        },
        "missing_tasks": [tag for tag in TASKS if tag not in tasks],
        "image_accuracy": sum(row["correct"] for row in rows) / len(rows),
        "prompt_accuracy": sum(prompts.values()) / len(prompts),
        "num_images": len(rows),
        "num_prompts": len(prompts),
    }


def _fault(
    wanted: Mapping[str, Any],
    objects: Sequence[Detection],
    groups: Sequence[Sequence[Detection] | None],
    colour_of: ColourOf,
) -> str:
    """What is wrong with the objects of one "include" clause; empty where nothing is."""
    label, count = wanted["class"], wanted["count"]
    if len(objects) < count:
        return f"{len(objects)} of {label}, wanted {count}"
    if "color" in wanted:
        seen = [colour_of(detection) for detection in objects]
        if seen.count(wanted["color"]) < count:
            return f"{label} is {', '.join(seen)}, wanted {wanted['color']}"
    if "position" in wanted:
        relation, target = wanted["position"]
        if groups[target] is None:
            return f"no target for {label} to be {relation}"
        for one, other in itertools.product(objects, groups[target] or ()):
            if relation not in (found := relations(one, other)):
                where = " and ".join(sorted(found)) or "nowhere"
                return f"{label} is {where}, wanted {relation}"
    return ""
