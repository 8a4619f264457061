"""The easy-VQA drawing task: 24 prompts drawn by a saved model and judged by an independent rule.

The judge looks at pixels only (`easy_vqa_shapes.judge_shape`), never through a model of ours, so
the model cannot be right by agreeing with itself.

Example:
    semhitok eval generation --model runs/quickstart/mllm/model --seeds 4 --out runs/draw
"""

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_pipelines.images import write_png
from data_pipelines.sources.easy_vqa_shapes import PALETTE, SHAPES, judge_shape
from eval.drawing.settings import EASY_VQA, GenerationSettings
from eval.measures.intervals import wilson_interval
from eval.reports.page import MARKS, Card, Report, Section, write_report
from mllm.drawing.drawer import draw
from mllm.model.sampler import model_sampler
from mllm.saved.fingerprint import model_fingerprint
from mllm.saved.load import load_for_inference
from runtime.files import read_json, write_json
from runtime.json_lines import read_rows, write_rows
from runtime.run_folder import code_commit, make_folder, start_run
from runtime.settings import to_dict

CHANCE = 1 / (len(PALETTE) * len(SHAPES))
GUIDANCE_CONVENTION = "u + s·(c - u): c conditional, u unconditional, s the scale"
RULE = (
    "easy-VQA drawing rule: colour of the largest blob against the exact palette, shape by how "
    "much of its box the blob and its convex hull fill; both must be the prompt's"
)
NOT_SETTINGS = ("per_prompt", "interval", "accuracy", "num_correct")


@dataclass(frozen=True)
class DrawingPrompt:
    """What is asked for, in words and in the judge's terms."""

    text: str
    colour: str
    shape: str


def drawing_prompts() -> list[DrawingPrompt]:
    """All 24 pairs in the captions' own wording, shapes outermost: "a teal triangle"."""
    pairs = itertools.product(SHAPES, PALETTE)
    return [DrawingPrompt(f"a {colour} {shape}", colour, shape) for shape, colour in pairs]


def judge(image: Image.Image, prompt: DrawingPrompt) -> dict[str, Any]:
    """What the rule sees in a drawing (None where it finds no shape), and what of it is right."""
    colour, shape = judge_shape(np.asarray(image.convert("RGB"))) or (None, None)
    return {
        "seen_colour": colour,
        "seen_shape": shape,
        "colour_correct": colour == prompt.colour,
        "shape_correct": shape == prompt.shape,
        "correct": (colour, shape) == (prompt.colour, prompt.shape),
    }


def evaluate_easy_vqa(settings: GenerationSettings) -> Path:
    """Draw every prompt with several seeds, judge the drawings and save both.

    Every drawing has its own seed, so that any one of them can be drawn again alone. Where the
    model chooses among candidates, its first ones are judged too, so that what the choice is worth
    can be seen.

    Writes `summary.json`, `judged.jsonl` (one line per drawing), the drawings under `images/`, and
    the report; returns the folder.

    Raises:
        UserError: if the folder of the model holds none.
    """
    assert settings.model is not None
    out, num_seeds = settings.out, settings.seeds or 4
    model, processor = load_for_inference(settings.model)
    # The settings in full, the model's own where none are given, for the record beside the score.
    sampler = model_sampler(model.config.image_sampler, settings.sampler)
    prompts = [prompt for prompt in drawing_prompts() for _ in range(num_seeds)]
    texts, seeds = [prompt.text for prompt in prompts], list(range(len(prompts)))
    start_run(out, settings, "semhitok eval generation")
    make_folder(out / "images")
    judged = []
    drawings = draw(model, processor, texts, seeds, sampler, settings.batch_size)
    for prompt, seed, drawing in zip(prompts, seeds, drawings, strict=True):
        path = f"images/{seed:03d}_{prompt.colour}_{prompt.shape}.png"
        write_png(drawing, out / path)
        row = {"prompt": prompt.text, "seed": seed, "image": path}
        judged.append(row | judge(drawing, prompt))
    if sampler.num_candidates > 1:
        single = sampler.model_copy(update={"num_candidates": 1})
        first = draw(model, processor, texts, seeds, single, settings.batch_size)
        for row, prompt, drawing in zip(judged, prompts, first, strict=True):
            row["first_candidate_correct"] = judge(drawing, prompt)["correct"]
    summary = {
        "task": f"generation, {EASY_VQA}",
        "rule": RULE,
        **score(judged),
        "chance": CHANCE,
        "colour_chance": 1 / len(PALETTE),
        "shape_chance": 1 / len(SHAPES),
        "seeds_per_prompt": num_seeds,
        "seeds": f"0 to {seeds[-1]}, one per drawing",
        "prompts_rewritten": False,
        "guidance_convention": GUIDANCE_CONVENTION,
        "sampler": to_dict(sampler),
        "resolution": list(drawing.size),
        "batch_size": settings.batch_size,
        "model": str(settings.model),
        "checkpoint_fingerprint": model_fingerprint(settings.model),
        "commit": code_commit(),
    }
    write_rows(out / "judged.jsonl", judged)
    write_json(out / "summary.json", summary)  # last: its presence says the rest is complete
    low, high = summary["interval"]
    print(
        f"{summary['num_correct']} of {summary['num_drawings']} drawings right "
        f"({summary['accuracy']:.1%}, 95 % interval {low:.1%} to {high:.1%}): colour "
        f"{summary['colour_accuracy']:.1%}, shape {summary['shape_accuracy']:.1%}; "
        f"first candidates {summary['first_candidate_accuracy']:.1%}; chance {CHANCE:.1%}"
    )
    write_report(report_easy_vqa(out), out)
    return out


def score(judged: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Fractions of right drawings, colours and shapes, and of right drawings of each prompt.

    `num_unread` counts the drawings in which the rule finds no shape at all. The rows have `prompt`
    and what `judge` returns.
    """

    def fraction(rows: Sequence[Mapping[str, Any]], key: str) -> float:
        return sum(row[key] for row in rows) / len(rows)

    prompts = dict.fromkeys(row["prompt"] for row in judged)
    num_correct = sum(row["correct"] for row in judged)
    first = "first_candidate_correct" if "first_candidate_correct" in judged[0] else "correct"
    return {
        "accuracy": num_correct / len(judged),
        "interval": list(wilson_interval(num_correct, len(judged))),
        "num_correct": num_correct,
        "num_drawings": len(judged),
        "num_unread": sum(row["seen_shape"] is None for row in judged),
        "num_prompts": len(prompts),
        "first_candidate_accuracy": fraction(judged, first),
        "colour_accuracy": fraction(judged, "colour_correct"),
        "shape_accuracy": fraction(judged, "shape_correct"),
        "per_prompt": {
            text: fraction([row for row in judged if row["prompt"] == text], "correct")
            for text in prompts
        },
    }


def report_easy_vqa(folder: Path) -> Report:
    """The report of the evaluation in a folder; prompts with wrong drawings come first."""
    summary = read_json(folder / "summary.json")
    low, high = summary["interval"]
    measures = (
        ("colour and shape", "accuracy", "chance"),
        ("colour", "colour_accuracy", "colour_chance"),
        ("shape", "shape_accuracy", "shape_chance"),
        ("colour and shape, first candidates", "first_candidate_accuracy", "chance"),
    )
    rows = [(name, *(f"{summary[key]:.1%}" for key in keys)) for name, *keys in measures]
    by_prompt: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in read_rows(folder / "judged.jsonl"):
        by_prompt[row["prompt"]].append(row)
    worst_first = sorted(by_prompt.items(), key=lambda item: sum(r["correct"] for r in item[1]))
    cards = [_card(folder, prompt, judged) for prompt, judged in worst_first]
    note = (
        f"Rule: {summary['rule']}. It looks at pixels alone; no model of ours takes part. Under a "
        f"wrong drawing stands what the rule saw; in {summary['num_unread']:,} it saw no shape."
    )
    lead = (
        f"{summary['num_correct']:,} of {summary['num_drawings']:,} drawings right, "
        f"{summary['accuracy']:.1%} (95 % interval {low:.1%} to {high:.1%}); chance gives "
        f"{summary['chance']:.1%}. {summary['seeds_per_prompt']} drawings of each prompt, none "
        "chosen by hand."
    )
    table = Section("Drawings right", header=("In", "Right", "Chance"), rows=rows, note=note)
    about = {key: value for key, value in summary.items() if key not in NOT_SETTINGS}
    return Report("Drawings: easy-VQA", lead, [table, Section("By prompt", cards=cards)], about)


def _card(folder: Path, prompt: str, judged: Sequence[Mapping[str, Any]]) -> Card:
    marks = [row["correct"] for row in judged]
    pictures = [(folder / row["image"], f"{MARKS[row['correct']]} {_seen(row)}") for row in judged]
    right = marks[0] if len(set(marks)) == 1 else None
    return Card(prompt, pictures, right, f"{sum(marks)} of {len(marks)} right")


def _seen(row: Mapping[str, Any]) -> str:
    if row["correct"]:
        return f"seed {row['seed']}"
    seen = " ".join(str(row[key]) for key in ("seen_colour", "seen_shape") if row[key])
    return f"seen: {seen or 'nothing'}"
