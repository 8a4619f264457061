"""What two results must have in common before their numbers may stand in one column."""

from collections.abc import Mapping, Sequence
from typing import Any

CONDITIONS = {
    "task": "task",
    "benchmark": "benchmark",
    "rule": "rule",
    "split": "split",
    "data_fingerprint": "set of images or questions",
    "questions_fingerprint": "questions",
    "reference_fingerprint": "set of real images",
    "prompts_sha256": "prompt file",
    "prompts_rewritten": "rewriting of prompts",
    "num_images": "number of images",
    "num_questions": "number of questions",
    "num_drawings": "number of drawings",
    "num_prompts": "number of prompts",
    "resolution": "resolution",
    "crop": "crop",
    "psnr_rule": "rule of PSNR",
    "ssim_rule": "rule of SSIM",
    "feature_networks": "feature network",
    "network_fingerprints": "weights of the feature network",
    "judge": "judge",
    "detector": "detector",
    "clip": "CLIP",
    "decoding": "decoding",
}
"""Keys of a summary that must agree, and what they are called."""

UNKNOWN = "not known"
"""How a condition begins that is not known, such as the decoding of another system: mentioned,
but it keeps no results apart."""


def conditions_of(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The conditions of a result, as a summary of several results keeps them."""
    found = {key: condition(summary, key) for key in CONDITIONS}
    return {key: value for key, value in found.items() if value not in (None, [])}


def differences(summaries: Sequence[Mapping[str, Any]]) -> list[str]:
    """What keeps results out of one table, each with the values; empty where nothing does.

    A summary with `parts`, each the conditions of a result within it, is compared part by part.
    Results of different tasks differ in nothing but that.
    """
    tasks = dict.fromkeys(str(summary.get("task")) for summary in summaries)
    if len(tasks) > 1:
        return [f"task ({' and '.join(tasks)})"]
    found = []
    for key, name in CONDITIONS.items():
        values = [condition(summary, key) for summary in summaries]
        known = [value for value in values if not str(value).startswith(UNKNOWN)]
        if any(value != known[0] for value in known):
            shown = " and ".join(dict.fromkeys(map(_short, known)))
            found.append(f"{name} ({shown})")
    parts = dict.fromkeys(part for summary in summaries for part in summary.get("parts", {}))
    for part in parts:
        inner = [summary.get("parts", {}).get(part, {}) for summary in summaries]
        found += [f"{name} of {part}" for name in differences(inner)]
    return found


def condition(summary: Mapping[str, Any], key: str) -> Any:
    """The value of a key of `CONDITIONS` in a summary."""
    if key == "network_fingerprints" and key not in summary:
        scores = summary.get("scores", {}).values()
        return sorted({s["network_fingerprint"] for s in scores if "network_fingerprint" in s})
    return summary.get(key)


def _short(value: Any) -> str:
    text = "none" if value in (None, []) else str(value)
    return text if len(text) <= 60 else f"{text[:28]}…{text[-28:]}"
