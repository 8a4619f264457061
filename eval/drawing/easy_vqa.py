"""The easy-VQA drawing task: 24 prompts drawn by a saved model and judged by an independent rule.

The judge looks at pixels only (`easy_vqa_shapes.judge_shape`), never through
a model of ours, so the model cannot be right by agreeing with itself.

Example:
    semhitok eval generation --model runs/quickstart/mllm/model --seeds 4 --out runs/draw
"""

import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_pipelines.sources.easy_vqa_shapes import PALETTE, SHAPES, judge_shape
from eval.measures.intervals import wilson_interval

TASK = "easy-vqa"
SAMPLER_SETTINGS = (
    "guidance_scale",
    "temperature",
    "pixel_temperature",
    "top_k",
    "top_p",
    "num_candidates",
)
CHANCE = 1 / (len(PALETTE) * len(SHAPES))
RULE = (
    "easy-VQA drawing rule: colour of the largest blob against the exact palette, shape by how "
    "much of its box the blob and its convex hull fill; both must be the prompt's"
)


@dataclass(frozen=True)
class DrawingPrompt:
    """What is asked for, in words and in the judge's terms."""

    text: str
    colour: str
    shape: str


@dataclass(frozen=True)
class DrawingSettings:
    """What an evaluation was run with; saved beside its results. None: the model's own setting."""

    model: str
    """Folder of the unified model."""
    task: str
    """Name of the drawing task."""
    seeds: int
    """Drawings of each prompt."""
    batch_size: int
    """Drawings at a time."""
    guidance_scale: float | None = None
    """s in u + s·(c - u), over the logits with (c) and without (u) the prompt."""
    temperature: float | None = None
    """What the logits are divided by."""
    top_k: int | None = None
    """Codes that may be drawn at each position."""
    top_p: float | None = None
    """Probability mass that may be drawn from at each position."""
    pixel_temperature: float | None = None
    """The temperature of pixel codes, where it is another."""
    num_candidates: int | None = None
    """Drawings made for each one that is judged; the model chooses."""


def drawing_prompts() -> list[DrawingPrompt]:
    """All 24 pairs in the captions' own wording, shapes outermost: "a teal triangle"."""
    return [
        DrawingPrompt(f"a {colour} {shape}", colour, shape)
        for shape in SHAPES
        for colour in PALETTE
    ]


def judge(image: Image.Image, prompt: DrawingPrompt) -> dict[str, Any]:
    """Compare a drawing with its prompt.

    Returns:
        `seen_colour` and `seen_shape` (None where the rule finds no shape at all),
        `colour_correct`, `shape_correct` and `correct`, which wants both.
    """
    colour, shape = judge_shape(np.asarray(image.convert("RGB"))) or (None, None)
    return {
        "seen_colour": colour,
        "seen_shape": shape,
        "colour_correct": colour == prompt.colour,
        "shape_correct": shape == prompt.shape,
        "correct": (colour, shape) == (prompt.colour, prompt.shape),
    }


def evaluate(
    model_dir: Path | str,
    out_dir: Path | str,
    num_seeds: int = 4,
    batch_size: int = 24,
    sampler: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Draw every prompt with several seeds, judge the drawings and save both.

    Where the model chooses among candidates, its first ones are judged too, so that what the choice
    is worth can be seen.

    Writes `summary.json`, `judged.jsonl` (one line per drawing) and the drawings under `images/`.

    Args:
        model_dir: a saved unified model.
        out_dir: where the results go; made if missing.
        num_seeds: drawings of each prompt, at least 1. Every drawing has its own seed, so that any
            one of them can be drawn again alone.
        batch_size: drawings at a time; results do not depend on it.
        sampler: `SAMPLER_SETTINGS`; what is absent or None is left to the model's own settings.

    Returns:
        What `summary.json` holds.

    Raises:
        UserError: if `num_seeds` is below 1, or `model_dir` holds no model.
    """
    from mllm.drawing.generate import default_sampler, draw
    from mllm.saved.fingerprint import model_fingerprint
    from mllm.saved.load import load_for_inference
    from runtime.errors import UserError
    from runtime.run_folder import describe_environment, make_folder, write_json, write_text
    from runtime.settings import to_dict

    if num_seeds < 1:
        raise UserError(f"The drawing task needs at least 1 seed per prompt, not {num_seeds}.")
    out_dir = Path(out_dir)
    model, processor = load_for_inference(model_dir)
    # The settings in full, the model's own where none are given, for the record beside the score.
    settings = default_sampler(model, **(sampler or {}))
    prompts = [prompt for prompt in drawing_prompts() for _ in range(num_seeds)]
    texts = [prompt.text for prompt in prompts]
    seeds = list(range(len(prompts)))
    drawings = draw(model, processor, texts, seeds, settings, batch_size)

    make_folder(out_dir / "images")
    judged = []
    for prompt, seed, drawing in zip(prompts, seeds, drawings, strict=True):
        path = f"images/{seed:03d}_{prompt.colour}_{prompt.shape}.png"
        drawing.save(out_dir / path)
        judged.append(
            {"prompt": prompt.text, "seed": seed, "image": path, **judge(drawing, prompt)}
        )
    if settings.num_candidates > 1:
        one = settings.model_copy(update={"num_candidates": 1})
        alone = draw(model, processor, texts, seeds, one, batch_size)
        for row, prompt, drawing in zip(judged, prompts, alone, strict=True):
            row["first_candidate_correct"] = judge(drawing, prompt)["correct"]

    summary = {
        "task": f"generation, {TASK}",
        "rule": RULE,
        **score(judged),
        "chance": CHANCE,
        "colour_chance": 1 / len(PALETTE),
        "shape_chance": 1 / len(SHAPES),
        "seeds_per_prompt": num_seeds,
        "seeds": f"0 to {seeds[-1]}, one per drawing",
        "prompts_rewritten": False,
        "guidance_convention": "u + s·(c - u): c conditional, u unconditional, s the scale",
        "sampler": to_dict(settings),
        "resolution": list(drawing.size),
        "batch_size": batch_size,
        "model": str(model_dir),
        "checkpoint_fingerprint": model_fingerprint(model_dir),
        "commit": (describe_environment()["git"] or {}).get("commit"),
    }
    write_text(out_dir / "judged.jsonl", "".join(json.dumps(row) + "\n" for row in judged))
    write_json(out_dir / "summary.json", summary)  # last: its presence says the rest is complete
    return summary


def score(judged: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Share of right drawings, of right colours, of right shapes, and of each prompt's drawings.

    Args:
        judged: rows with `prompt` and what `judge` returns; at least one.
    """

    def share(rows: Sequence[Mapping[str, Any]], key: str) -> float:
        return sum(row[key] for row in rows) / len(rows)

    prompts = dict.fromkeys(row["prompt"] for row in judged)
    num_correct = sum(row["correct"] for row in judged)
    first = "first_candidate_correct" if "first_candidate_correct" in judged[0] else "correct"
    return {
        "accuracy": num_correct / len(judged),
        "interval": list(wilson_interval(num_correct, len(judged))),
        "num_correct": num_correct,
        "num_drawings": len(judged),
        "num_prompts": len(prompts),
        "first_candidate_accuracy": share(judged, first),
        "colour_accuracy": share(judged, "colour_correct"),
        "shape_accuracy": share(judged, "shape_correct"),
        "per_prompt": {
            text: share([row for row in judged if row["prompt"] == text], "correct")
            for text in prompts
        },
    }


def command(args: Namespace) -> Path:
    """Run `semhitok eval generation`; returns the folder that was written."""
    from eval.drawing.report import report_drawings
    from runtime.errors import UserError
    from runtime.run_folder import RunDirectory

    if args.task not in (None, TASK):
        from eval.drawing.task import command as benchmark

        return benchmark(args)
    if args.model is None:
        raise UserError(f"The task {TASK} draws: give --model.")
    options = ("prompts", "images", "clip", "detector", "judge", "reference", "network")
    foreign = [f"--{name}" for name in options if getattr(args, name, None)]
    if foreign:
        raise UserError(
            f"The task {TASK} has prompts and a rule of its own, without {', '.join(foreign)}: "
            "leave that away, or name another --task."
        )
    settings = DrawingSettings(
        model=str(args.model),
        task=TASK,
        seeds=4 if args.seeds is None else args.seeds,
        batch_size=args.batch_size,
        guidance_scale=args.guidance_scale,
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        pixel_temperature=args.pixel_temperature,
        num_candidates=args.num_candidates,
    )
    RunDirectory(args.out).start(settings, "semhitok eval generation")
    sampler = {name: getattr(settings, name) for name in SAMPLER_SETTINGS}
    summary = evaluate(settings.model, args.out, settings.seeds, settings.batch_size, sampler)
    low, high = summary["interval"]
    print(
        f"{summary['num_correct']} of {summary['num_drawings']} drawings right "
        f"({summary['accuracy']:.1%}, 95 % interval {low:.1%} to {high:.1%}): colour "
        f"{summary['colour_accuracy']:.1%}, shape {summary['shape_accuracy']:.1%}; "
        f"first candidates {summary['first_candidate_accuracy']:.1%}; chance {CHANCE:.1%}"
    )
    report_drawings(args.out)
    return Path(args.out)
