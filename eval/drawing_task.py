r"""A text-to-image benchmark from prompt file to score.

Draws into the benchmark's own layout (`eval.drawing_layouts`) below `export/`, which its own
program can score, and scores natively what is asked for. With --images in place of --model the
drawings of any system are scored.

Example:
    semhitok eval generation --task geneval --prompts evaluation_metadata.jsonl \
        --model runs/mllm/model --out runs/geneval --detector default \
        --clip openai/clip-vit-large-patch14
"""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from eval import geneval_rule
from eval.drawing_export import EXPORT, RECORD, export
from eval.drawing_layouts import LAYOUTS, Prompt, check_layout, read_prompts, split_grid
from eval.evaluation_report import Card, Report, Table, score_table, write_reports
from semhitok.errors import UserError

BATCH = 32  # images that a network looks at together


@dataclass(frozen=True)
class DrawingTaskSettings:
    """What a benchmark is run with; saved beside its results."""

    task: str
    """A name of `eval.drawing_layouts.LAYOUTS`."""
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
    """Detector of GenEval; "default" is the Mask2Former of `eval.geneval_detector`."""
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

    Returns:
        What `summary.json` holds; `scores` is empty where no score was asked for.

    Raises:
        UserError: if the prompt file has another format, the folder is incomplete and there is no
            model, a network cannot be had, or a score does not belong to the task.
    """
    from semhitok.run import make_folder, read_json, write_json

    out = Path(settings.out)
    prompts = read_prompts(settings.task, settings.prompts, settings.images_per_prompt)
    score = _scorers(settings, prompts)  # networks first: a wrong name must not cost the drawings
    make_folder(out)
    if settings.model is None:
        check_layout(settings.task, settings.folder, prompts)
        record = read_json(out / RECORD) if (out / RECORD).is_file() else {"drawn_by": "unknown"}
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
    published = LAYOUTS[settings.task].num_prompts
    found: dict[str, Any] = {"scores": {}, "judged": []}
    for part in score:
        part(found)
    judged = found.pop("judged")
    summary = {
        **record,
        "task": f"generation, {settings.task}",
        "num_prompts": len(prompts),
        "num_images": sum(len(prompt.paths) for prompt in prompts),
        "is_whole_benchmark": published is None or len(prompts) == published,
        "resolution": list(Image.open(settings.folder / prompts[0].paths[0]).size),
        **found,
    }
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in judged)
    (out / "judged.jsonl").write_text(lines, encoding="utf-8")
    write_json(out / "summary.json", summary)
    write_reports(_report(settings, summary, prompts, judged), out)
    return summary


def _scorers(
    settings: DrawingTaskSettings, prompts: Sequence[Prompt]
) -> list[Callable[[dict[str, Any]], None]]:
    """What is to be done to the finished drawings; each adds to the summary."""
    from eval.clip_score import Clip

    task, out = settings.task, settings.folder
    scorers: list[Callable[[dict[str, Any]], None]] = []
    clip = Clip(settings.clip) if settings.clip else None
    if settings.detector:
        if task != "geneval":
            raise UserError(f"A detector judges geneval alone, not {task}.")
        if clip is None:
            raise UserError("GenEval's colours need a CLIP: give --clip, officially ViT-L/14.")
        scorers.append(_geneval(settings, prompts, clip))
    if settings.judge:
        if task not in ("dpg", "geneval2"):
            raise UserError(f"A judge answers the questions of dpg and geneval2, not of {task}.")
        scorers.append(_questions(settings, prompts))
    if clip is not None:
        scorers.append(lambda found: _clip_scores(found, clip, out, task, prompts))
    if settings.networks:
        if settings.reference is None:
            raise UserError("A set distance needs real images: give --reference.")
        scorers.append(_set_distances(settings, prompts))
    return scorers


def _pictures(out: Path, task: str, prompt: Prompt) -> list[Image.Image]:
    """The drawings of a prompt, a grid taken apart."""
    found = [Image.open(out / path).convert("RGB") for path in prompt.paths]
    return split_grid(found[0]) if LAYOUTS[task].grid else found


def _geneval(
    settings: DrawingTaskSettings, prompts: Sequence[Prompt], clip: Any
) -> Callable[[dict[str, Any]], None]:
    from eval.clip_score import ColourNamer
    from eval.geneval_detector import DEFAULT, NOTE, Detector

    detect = Detector(DEFAULT if settings.detector == "default" else str(settings.detector))
    namer = ColourNamer(clip)

    def score(found: dict[str, Any]) -> None:
        from semhitok.progress import Progress

        with Progress(len(prompts), "judge", "prompt") as progress:
            for prompt in prompts:
                for path in prompt.paths:
                    with Image.open(settings.folder / path) as image:
                        picture = image.convert("RGB")
                    correct, wrong = geneval_rule.judge(
                        prompt.data, detect(picture), partial(namer, picture)
                    )
                    row = {"tag": prompt.data["tag"], "prompt": prompt.text, "image": path}
                    found["judged"].append(row | {"correct": correct, "reason": "; ".join(wrong)})
                progress.update(1)
        result = geneval_rule.score(found["judged"])
        found |= {"rule": geneval_rule.RULE, "detector": detect.label, "geneval": result}
        name = f"GenEval, {NOTE}"
        found["scores"][name] = {"value": result["accuracy"], "interval": None}
        for tag, part in result["by_task"].items():
            found["scores"][f"{name}: {tag}"] = {
                "value": part["accuracy"],
                "interval": part["interval"],
                "num_images": part["num_images"],
            }

    return score


def _questions(
    settings: DrawingTaskSettings, prompts: Sequence[Prompt]
) -> Callable[[dict[str, Any]], None]:
    from eval import question_scores
    from eval.vlm_judge import load_judge, probability_of_yes

    is_dpg = settings.task == "dpg"
    if is_dpg and any(not prompt.data for prompt in prompts):
        raise UserError(f"{settings.prompts} has no questions: give dpg_bench.csv to a judge.")
    judge = load_judge(str(settings.judge), settings.model)
    skipped = 1 if is_dpg else 0  # the official script leaves out the table's first row

    def score(found: dict[str, Any]) -> None:
        from semhitok.progress import Progress

        rows: list[Any] = []
        with Progress(len(prompts), "judge", "prompt") as progress:
            for number, prompt in enumerate(prompts):
                pictures = _pictures(settings.folder, settings.task, prompt)
                if is_dpg:
                    data = prompt.data[skipped:] if number == 0 else prompt.data
                    questions = question_scores.dpg_questions(data)
                    answers = [
                        {
                            q["id"]: probability_of_yes(judge, picture, q["question"])
                            for q in questions
                        }
                        for picture in pictures
                    ]
                    if questions:
                        rows.append((questions, answers))
                    raw: Any = answers
                else:
                    asked = [(question, answer) for question, answer in prompt.data["vqa_list"]]
                    raw = [
                        math.exp(judge.log_likelihood(pictures[0], question, answer))
                        for question, answer in asked
                    ]
                    rows.append((prompt.data.get("skills", ["question"] * len(asked)), raw))
                found["judged"].append(
                    {"prompt": prompt.text, "image": prompt.paths[0], "answers": raw}
                )
                progress.update(1)
        result = question_scores.dpg_score(rows) if is_dpg else question_scores.soft_tifa(rows)
        rule = question_scores.DPG_RULE if is_dpg else question_scores.TIFA_RULE
        found |= {"rule": rule, "judge": judge.label, settings.task: result}
        name = f"{'DPG-Bench' if is_dpg else 'Soft-TIFA AM'}, judged by {judge.label}"
        found["scores"][name] = {"value": result["accuracy"], "interval": result["interval"]}
        if not is_dpg:
            found["scores"][f"Soft-TIFA GM, judged by {judge.label}"] = result["geometric"]

    return score


def _clip_scores(
    found: dict[str, Any], clip: Any, out: Path, task: str, prompts: Sequence[Prompt]
) -> None:
    from eval.clip_score import CLIPSCORE_RULE
    from eval.reconstruction_scores import mean_with_interval

    values: list[float] = []
    for prompt in prompts:
        pictures = _pictures(out, task, prompt)
        values += clip.scores(pictures, [prompt.text] * len(pictures))
    found |= {"clip": clip.label, "clipscore_rule": CLIPSCORE_RULE}
    found["scores"][f"CLIPScore ({clip.label})"] = mean_with_interval(values) | {
        "num_images": len(values)
    }


def _set_distances(
    settings: DrawingTaskSettings, prompts: Sequence[Prompt]
) -> Callable[[dict[str, Any]], None]:
    """Drawings against real images: both by the network's own resize, of MJHQ each category too."""
    import torch

    from data_pipelines.images import to_tensor
    from eval.feature_networks import load_feature_network
    from eval.image_source import CROPS, EvaluationImages
    from eval.reconstruction_scores import SetDistances
    from eval.set_distance import require_enough_images
    from tokenizer.rank_group import RankGroup

    networks = [load_feature_network(name) for name in settings.networks]
    real = EvaluationImages(str(settings.reference), "adm")
    number = sum(4 if LAYOUTS[settings.task].grid else len(prompt.paths) for prompt in prompts)
    if "frechet" in settings.distances:
        for network in networks:
            for count, what in ((number, "The drawing"), (len(real), str(settings.reference))):
                require_enough_images(count, network.dim, what, network.label)

    def score(found: dict[str, Any]) -> None:
        out = settings.folder
        size = Image.open(out / prompts[0].paths[0]).width // (
            2 if LAYOUTS[settings.task].grid else 1
        )
        distances = SetDistances(networks, settings.distances)
        for start in range(0, len(real), BATCH):
            part = range(start, min(start + BATCH, len(real)))
            distances.add(torch.stack([real.image_tensor(i, size) for i in part]), None)
        for prompt in prompts:
            pictures = _pictures(out, settings.task, prompt)
            distances.add(None, torch.stack([to_tensor(picture) for picture in pictures]))
        found["scores"] |= distances.scores(RankGroup())
        found |= {
            "feature_networks": [network.label for network in networks],
            "reference": str(settings.reference),
            "reference_fingerprint": real.fingerprint,
            "crop": f"of the real images: {CROPS['adm'].about}",
        }

    return score


def _report(
    settings: DrawingTaskSettings,
    summary: Mapping[str, Any],
    prompts: Sequence[Prompt],
    judged: Sequence[Mapping[str, Any]],
) -> Report:
    verdicts = {row["image"]: row for row in judged}
    cards = []
    for prompt in prompts:
        shown = [verdicts.get(path, {}) for path in prompt.paths]
        paths = prompt.paths[:4]
        marks = [row["correct"] for row in shown if "correct" in row]
        notes = [row["reason"] for row in shown if row.get("reason")]
        cards.append(
            Card(
                prompt.text,
                [(os.path.relpath(settings.folder / p, settings.out), Path(p).name) for p in paths],
                all(marks) if marks else None,
                "; ".join(notes)[:300],
            )
        )
    tables: list[Table] = [score_table(summary["scores"])] if summary["scores"] else []
    whole = "" if summary["is_whole_benchmark"] else " This is a part of the benchmark's prompts."
    lead = (
        f"{summary['num_prompts']:,} prompts, {summary['num_images']:,} pictures in the layout of "
        f"{settings.task}.{whole}"
    )
    left_out = ("scores", "geneval", "dpg", "geneval2")
    about = {key: value for key, value in summary.items() if key not in left_out}
    return Report(f"Drawings: {settings.task}", lead, tables, cards, settings=about)


def command(args: Any) -> Path:
    """`semhitok eval generation` with a task other than easy-vqa."""
    from eval.generation import SAMPLER_SETTINGS
    from semhitok.run import RunDirectory

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
    for name, score in summary["scores"].items():
        print(f"{name:<48} {score['value']:.4g}")
    return Path(args.out)
