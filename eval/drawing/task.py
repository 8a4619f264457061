r"""A text-to-image benchmark from prompt file to score, or easy-VQA's prompts with their own rule.

Draws into the benchmark's own layout (`eval.drawing.layouts`) below `export/`, which its own
program can score, and scores natively what is asked for. With --images in place of --model the
drawings of any system are scored.

Example:
    semhitok eval generation --task geneval --prompts evaluation_metadata.jsonl \
        --model runs/mllm/model --out runs/geneval --detector default \
        --clip openai/clip-vit-large-patch14
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from eval.drawing.easy_vqa import evaluate_easy_vqa
from eval.drawing.export import describe_prompts, drawings_folder, export, read_record
from eval.drawing.layouts import LAYOUTS, Prompt, check_layout, read_prompts
from eval.drawing.scored import Scored
from eval.drawing.scorers import load_scorers
from eval.drawing.settings import EASY_VQA, GenerationSettings
from eval.reports.page import Card, Report, Section, score_table, write_report
from runtime.files import write_json
from runtime.json_lines import write_rows
from runtime.ranks import is_main_rank
from runtime.resume import open_output
from runtime.run_folder import start_run

SCORERS = ("clip", "detector", "judge", "reference", "network")
"""What may score drawings that are there already."""
NOT_SETTINGS = ("scores", "geneval", "dpg", "geneval2", "by_category")


def evaluate(settings: GenerationSettings) -> Path:
    """Draw what is missing, score what is asked for, save and report; returns the folder.

    Under torchrun all ranks draw; the first alone scores and writes.

    Raises:
        UserError: if the prompt file has another format, the folder is incomplete and there is no
            model, or a network cannot be loaded.
    """
    with open_output(settings.out, settings, SCORERS):
        return _evaluate(settings) if settings.task != EASY_VQA else evaluate_easy_vqa(settings)


def _evaluate(settings: GenerationSettings) -> Path:
    assert settings.prompts is not None
    prompts = read_prompts(settings.task, settings.prompts, settings.seeds)
    scorers = load_scorers(settings, prompts) if is_main_rank() else []
    folder = drawings_folder(settings)
    if settings.model is None:
        check_layout(settings.task, folder, prompts)
        record = read_record(folder)
    else:
        record = export(settings, prompts)
    if not is_main_rank():
        return settings.out
    start_run(settings.out, settings, "semhitok eval generation")
    parts = [score() for score in scorers]
    _save(settings, prompts, record, parts)
    for part in parts:
        for name, found in part.scores.items():
            print(f"{name:<48} {found['value']:.4g}")
    return settings.out


def _save(
    settings: GenerationSettings,
    prompts: Sequence[Prompt],
    record: Mapping[str, Any],
    parts: Sequence[Scored],
) -> None:
    folder, published = drawings_folder(settings), LAYOUTS[settings.task].num_prompts
    with Image.open(folder / prompts[0].paths[0]) as first:
        resolution = list(first.size)
    summary = {
        **describe_prompts(settings.task, prompts, Path(str(settings.prompts))),
        **record,
        "task": f"generation, {settings.task}",
        "num_prompts": len(prompts),
        "num_images": sum(len(prompt.paths) for prompt in prompts),
        "is_whole_benchmark": published is None or len(prompts) == published,
        "resolution": resolution,
        "scores": {},
    }
    for part in parts:
        summary["scores"] |= part.scores
        summary |= part.about
    rows = next((part.rows for part in parts if part.rows), [])
    write_rows(settings.out / "judged.jsonl", rows)
    write_json(settings.out / "summary.json", summary)
    write_report(_report(settings, summary, prompts, rows), settings.out)


def _report(
    settings: GenerationSettings,
    summary: Mapping[str, Any],
    prompts: Sequence[Prompt],
    rows: Sequence[Mapping[str, Any]],
) -> Report:
    folder = drawings_folder(settings)
    verdicts = {row["image"]: row for row in rows}
    ranked: list[tuple[float, Card]] = []
    for prompt in prompts:
        found = [verdicts.get(path, {}) for path in prompt.paths]
        marks = [row["correct"] for row in found if "correct" in row]
        scores = [row["score"] for row in found if "score" in row]
        notes = [row["reason"] for row in found if row.get("reason")]
        notes += [f"score {score:.3g}" for score in scores]
        pictures = [(folder / path, Path(path).name) for path in prompt.paths[:4]]
        card = Card(prompt.text, pictures, all(marks) if marks else None, "; ".join(notes)[:300])
        ranked.append((min(scores, default=0.0), card))
    cards = [card for _, card in sorted(ranked, key=lambda entry: entry[0])]
    part = "" if summary["is_whole_benchmark"] else " This is a part of the benchmark's prompts."
    lead = (
        f"{summary['num_prompts']:,} prompts, {summary['num_images']:,} pictures in the layout of "
        f"{settings.task}.{part}"
    )
    sections = [score_table(summary["scores"])] if summary["scores"] else []
    sections.append(Section("Pictures, failures first", cards=cards))
    about = {key: value for key, value in summary.items() if key not in NOT_SETTINGS}
    return Report(f"Drawings: {settings.task}", lead, sections, about)
