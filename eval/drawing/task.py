r"""A text-to-image benchmark from prompt file to score.

Draws into the benchmark's own layout (`eval.drawing.layouts`) below `export/`, which its own
program can score, and scores natively what is asked for. With --images in place of --model the
drawings of any system are scored.

Example:
    semhitok eval generation --task geneval --prompts evaluation_metadata.jsonl \
        --model runs/mllm/model --out runs/geneval --detector default \
        --clip openai/clip-vit-large-patch14
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from eval.drawing.export import EXPORT, describe_prompts, export, read_record
from eval.drawing.layouts import LAYOUTS, Prompt, check_layout, read_prompts
from eval.drawing.scores import scorers
from eval.reports.evaluation_page import Card, Report, Table, score_table, write_reports
from runtime.errors import UserError


@dataclass(frozen=True)
class DrawingTaskSettings:
    """What a benchmark is run with; saved beside its results."""

    task: str
    """A name of `eval.drawing.layouts.LAYOUTS`."""
    prompts: str
    """The benchmark's prompt file."""
    out: str
    """Where the results go, the drawings below it."""
    model: str | None = None
    """Folder of the unified model; None scores drawings that are there."""
    images: str | None = None
    """Folder of any system's drawings, in the benchmark's layout; None is `export` below `out`."""
    images_per_prompt: int | None = None
    """Drawings of each prompt; None is the benchmark's own number."""
    batch_size: int = 24
    """Drawings at a time."""
    seed: int = 0
    """Of the first drawing."""
    sampler: Mapping[str, Any] = field(default_factory=dict)
    """Settings in place of the model's own."""
    clip: str | None = None
    """CLIP of CLIPScore and of GenEval's colours."""
    detector: str | None = None
    """Detector of GenEval; "default" is the Mask2Former of `eval.drawing.geneval_detector`."""
    judge: str | None = None
    """Who answers the questions of dpg and geneval2: a vision-language model, or "self"."""
    reference: str | None = None
    """Folder, or prepared data, of real images for set distances."""
    networks: tuple[str, ...] = ()
    """Feature networks of the set distances."""
    distances: tuple[str, ...] = ("frechet",)
    """Of "frechet" and "kid"."""

    @property
    def folder(self) -> Path:
        """Where the drawings lie."""
        return Path(self.out) / EXPORT if self.images is None else Path(self.images)


def evaluate(settings: DrawingTaskSettings) -> dict[str, Any]:
    """Draw what is missing, score what is asked for, save and report.

    Under torchrun all ranks draw; the first alone scores and writes.

    Returns:
        What `summary.json` holds; `scores` is empty where no score was asked for. On the other
        ranks what `drawing.json` holds.

    Raises:
        UserError: if the prompt file has another format, the folder is incomplete and there is no
            model, a network cannot be had, or a score does not belong to the task.
    """
    from runtime.ranks import is_main_rank
    from runtime.run_folder import make_folder, write_json, write_text

    out = Path(settings.out)
    prompts = read_prompts(settings.task, settings.prompts, settings.images_per_prompt)
    # Networks first: a wrong name must not cost the drawings.
    parts = scorers(settings, prompts) if is_main_rank() else []
    make_folder(out)
    if settings.model is None:
        check_layout(settings.task, settings.folder, prompts)
        record = read_record(settings.folder)
    else:
        record = export(
            settings.task,
            prompts,
            settings.prompts,
            settings.model,
            out,
            settings.batch_size,
            settings.seed,
            settings.sampler,
        )
    if not is_main_rank():
        return dict(record)
    published = LAYOUTS[settings.task].num_prompts
    found: dict[str, Any] = {"scores": {}, "judged": []}
    for part in parts:
        part(found)
    judged = found.pop("judged")
    summary = {
        **describe_prompts(settings.task, prompts, settings.prompts),
        **record,
        "task": f"generation, {settings.task}",
        "num_prompts": len(prompts),
        "num_images": sum(len(prompt.paths) for prompt in prompts),
        "is_whole_benchmark": published is None or len(prompts) == published,
        "resolution": list(Image.open(settings.folder / prompts[0].paths[0]).size),
        **found,
    }
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in judged)
    write_text(out / "judged.jsonl", lines)
    write_json(out / "summary.json", summary)
    write_reports(_report(settings, summary, prompts, judged), out)
    return summary


def _report(
    settings: DrawingTaskSettings,
    summary: Mapping[str, Any],
    prompts: Sequence[Prompt],
    judged: Sequence[Mapping[str, Any]],
) -> Report:
    verdicts = {row["image"]: row for row in judged}
    ranked: list[tuple[float, Card]] = []
    for prompt in prompts:
        shown = [verdicts.get(path, {}) for path in prompt.paths]
        paths = prompt.paths[:4]
        marks = [row["correct"] for row in shown if "correct" in row]
        notes = [row["reason"] for row in shown if row.get("reason")]
        scores = [row["score"] for row in shown if "score" in row]
        notes += [f"score {score:.3g}" for score in scores]
        card = Card(
            prompt.text,
            [(os.path.relpath(settings.folder / p, settings.out), Path(p).name) for p in paths],
            all(marks) if marks else None,
            "; ".join(notes)[:300],
        )
        ranked.append((min(scores, default=0.0), card))
    cards = [card for _, card in sorted(ranked, key=lambda entry: entry[0])]
    tables: list[Table] = [score_table(summary["scores"])] if summary["scores"] else []
    whole = "" if summary["is_whole_benchmark"] else " This is a part of the benchmark's prompts."
    lead = (
        f"{summary['num_prompts']:,} prompts, {summary['num_images']:,} pictures in the layout of "
        f"{settings.task}.{whole}"
    )
    left_out = ("scores", "geneval", "dpg", "geneval2", "by_category")
    about = {key: value for key, value in summary.items() if key not in left_out}
    return Report(f"Drawings: {settings.task}", lead, tables, cards, settings=about)


def command(args: Any) -> Path:
    """`semhitok eval generation` with a task other than easy-vqa."""
    from eval.drawing.easy_vqa import SAMPLER_SETTINGS
    from runtime.ranks import is_main_rank
    from runtime.run_folder import RunDirectory

    if args.prompts is None:
        raise UserError(f"The task {args.task} needs the benchmark's prompt file: give --prompts.")
    if args.model is not None and args.images is not None:
        raise UserError("Give --model to draw, or --images to score drawings, not both.")
    settings = DrawingTaskSettings(
        task=args.task,
        prompts=str(args.prompts),
        out=str(args.out),
        model=None if args.model is None else str(args.model),
        images=None if args.images is None else str(args.images),
        images_per_prompt=args.seeds,
        batch_size=args.batch_size,
        seed=args.seed,
        sampler={name: getattr(args, name, None) for name in SAMPLER_SETTINGS},
        clip=args.clip,
        detector=args.detector,
        judge=args.judge,
        reference=None if args.reference is None else str(args.reference),
        networks=tuple(args.network or ()),
        distances=tuple(args.distance),
    )
    summary = evaluate(settings)
    RunDirectory(args.out).start(asdict(settings), "semhitok eval generation")
    if is_main_rank():
        for name, score in summary["scores"].items():
            print(f"{name:<48} {score['value']:.4g}")
    return Path(args.out)
