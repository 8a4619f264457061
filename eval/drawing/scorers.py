"""Loads the scores that are asked for, before anything is drawn: a wrong name costs no drawings."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from eval.drawing import geneval_rule
from eval.drawing.clip_score import CLIPSCORE_RULE, Clip, ColourNamer
from eval.drawing.export import drawings_folder
from eval.drawing.geneval_detector import DEFAULT, NOTE, Detector
from eval.drawing.layouts import Prompt
from eval.drawing.question_scores import load_question_scorer
from eval.drawing.scored import Scored, Scorer, open_pictures
from eval.drawing.set_distances import load_set_distances
from eval.drawing.settings import GenerationSettings
from eval.measures.intervals import mean_with_interval
from runtime.errors import UserError
from runtime.progress import Progress


def load_scorers(settings: GenerationSettings, prompts: Sequence[Prompt]) -> list[Scorer]:
    """One scorer for each score that is asked for.

    Raises:
        UserError: if a network cannot be loaded, or the prompt file does not fit a score.
    """
    folder = drawings_folder(settings)
    scorers: list[Scorer] = []
    clip = Clip(settings.clip) if settings.clip else None
    if settings.detector and clip is not None:
        for prompt in prompts:
            if complaint := geneval_rule.complaint(prompt.data):
                raise UserError(f"{settings.prompts}: the prompt {prompt.text[:80]!r} {complaint}.")
        detector = Detector(DEFAULT if settings.detector == "default" else settings.detector)
        scorers.append(partial(_geneval, folder, prompts, detector, clip))
    if settings.judge:
        scorers.append(load_question_scorer(settings, prompts, folder))
    if clip is not None:
        scorers.append(partial(_clip_scores, folder, settings.task, prompts, clip))
    if settings.network:
        scorers.append(load_set_distances(settings, prompts, folder))
    return scorers


def _geneval(folder: Path, prompts: Sequence[Prompt], detector: Detector, clip: Clip) -> Scored:
    namer = ColourNamer(clip)
    rows = []
    with Progress(len(prompts), "judge", "prompt") as progress:
        for prompt in prompts:
            pictures = open_pictures(folder, "geneval", prompt)
            for path, picture in zip(prompt.paths, pictures, strict=True):
                found = detector(picture)
                correct, wrong = geneval_rule.judge(prompt.data, found, partial(namer, picture))
                row = {"tag": prompt.data["tag"], "prompt": prompt.text, "image": path}
                row |= {"num_detections": len(found), "correct": correct}
                rows.append(row | {"reason": "; ".join(wrong)})
            progress.update(1)
    result = geneval_rule.score(rows)
    result["num_unread"] = sum(not row["num_detections"] for row in rows)
    name = f"GenEval, {NOTE}"
    scores = {name: {"value": result["accuracy"], "interval": None}}
    for tag, part in result["by_task"].items():
        about = {key: part[key] for key in ("interval", "num_images")}
        scores[f"{name}: {tag}"] = {"value": part["accuracy"], **about}
    about = {"rule": geneval_rule.RULE, "detector": detector.label, "geneval": result}
    return Scored(scores, about, rows)


def _clip_scores(folder: Path, task: str, prompts: Sequence[Prompt], clip: Clip) -> Scored:
    values: list[float] = []
    rows = []
    for prompt in prompts:
        pictures = open_pictures(folder, task, prompt)
        own = clip.scores(pictures, [prompt.text] * len(pictures))
        row = {"prompt": prompt.text, "image": prompt.paths[0], "clip_scores": own}
        rows.append(row | {"score": sum(own) / len(own)})
        values += own
    name = f"CLIPScore ({clip.label})"
    num_cut = sum(clip.is_cut(prompt.text) for prompt in prompts)
    score = mean_with_interval(values) | {"num_images": len(values), "num_cut": num_cut}
    return Scored({name: score}, {"clip": clip.label, "clipscore_rule": CLIPSCORE_RULE}, rows)
