r"""What the numbers are sensitive to: each score again, with the codes of the images spoilt.

A score that stays when the image is taken away measures something else. The model is asked, decodes
and draws with its codes as they are, with those of another image, with a blank image's, and with
one half of each code from another image.

Example:
    semhitok eval sensitivity --model runs/quickstart/mllm/model \
        --data runs/quickstart/data/test --out runs/sensitivity

Shapes: B images, N positions.
"""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eval.measures.intervals import wilson_interval
from eval.reconstruction.scores import image_scores, mean_with_interval
from eval.reports.evaluation_page import Card, Report, Table, write_reports
from eval.vqa.scorers import easy_vqa
from eval.vqa.scores import is_yes_no
from runtime.errors import UserError

AS_IT_IS = "as it is"
VARIANTS = {
    AS_IT_IS: "the codes of the image itself",
    "shuffled images": "the codes of another image of the set",
    "blank images": "the codes of an even grey image",
    "shuffled semantic codes": "semantic codes of another image, its own pixel codes",
    "shuffled pixel codes": "its own semantic codes, pixel codes of another image",
}

MUST_FALL = {
    "shuffled images": ("vqa", "vqa_open", "psnr", "ssim", "drawing"),
    "blank images": ("vqa", "vqa_open", "psnr", "ssim", "drawing"),
    "shuffled semantic codes": ("vqa", "vqa_open", "psnr", "ssim", "drawing"),
    "shuffled pixel codes": ("psnr", "ssim"),
}
"""What each variant must bring down, since it takes away what the score is about. Questions and the
shape of a drawing live in the semantic codes, so pixel codes may or may not move them."""

NAMES = {
    "vqa": "Questions right",
    "vqa_open": "Open questions right",
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "drawing": "Drawings right",
}
NUM_SHOWN = 6


@dataclass(frozen=True)
class SensitivitySettings:
    """What the comparison is run with; saved beside its results."""

    model: str
    """Folder of the unified model."""
    data: str
    """Folder of the prepared data set with questions."""
    max_images: int = 200
    """Images to take, evenly spaced, with all their questions."""
    seeds: int = 1
    """Drawings of each prompt of the easy-VQA drawing task; 0 leaves it out."""
    batch_size: int = 64
    """Images, or questions, at a time."""
    seed: int = 0
    """Of who gets whose codes."""


def partners(count: int, seed: int) -> Tensor:
    """(count,) for each image another one, all different: one round through a random order.

    Raises:
        UserError: if there is no other image.
    """
    if count < 2:
        raise UserError("Shuffling needs at least 2 images.")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    partner = torch.empty_like(order)
    partner[order] = order.roll(-1)
    return partner


def spoil(codes: Tensor, blank: Tensor, num_pixel_codes: int, seed: int) -> dict[str, Tensor]:
    """The codes of every variant.

    Args:
        codes: (B, N) flat image codes.
        blank: (N,) those of a blank image.
        num_pixel_codes: M.
        seed: of who gets whose.
    """
    others = codes[partners(len(codes), seed)]
    semantic, pixel = codes // num_pixel_codes, codes % num_pixel_codes
    return {
        AS_IT_IS: codes,
        "shuffled images": others,
        "blank images": blank.expand_as(codes),
        "shuffled semantic codes": others // num_pixel_codes * num_pixel_codes + pixel,
        "shuffled pixel codes": semantic * num_pixel_codes + others % num_pixel_codes,
    }


@torch.inference_mode()
def evaluate(settings: SensitivitySettings, out_dir: Path | str) -> dict[str, Any]:
    """Measure every variant, save and report.

    Returns:
        What `summary.json` holds: `variants` with the scores of each, and `as_they_must`, whether
        every score that must fall does, to below the interval of the model as it is.

    Raises:
        UserError: if there are too few images or no questions, or a path holds no model or data.
    """
    from data_pipelines.loading.dataset import PreparedDataset
    from mllm.saved.fingerprint import model_fingerprint
    from mllm.saved.load import load_for_inference
    from runtime.run_folder import describe_environment, make_folder, write_json

    out_dir = Path(out_dir)
    dataset = PreparedDataset(settings.data, images_only=True)
    chosen = np.unique(
        np.linspace(0, len(dataset) - 1, min(settings.max_images, len(dataset))).astype(int)
    ).tolist()
    model, processor = load_for_inference(settings.model)
    asked = [(place, q) for place, i in enumerate(chosen) for q in dataset[i].questions]
    if not asked:
        raise UserError(f"{settings.data} has no questions, so there is nothing to answer.")
    size = model.config.image_tokenizer_config.image_size
    images = torch.stack([dataset.image_tensor(i, size) for i in chosen])
    grey = torch.zeros(1, 3, size, size)
    codes, blank = (_codes(model, part, settings.batch_size) for part in (images, grey))
    num_pixel = model.vocabulary.num_pixel_codes
    drawn, prompts = _drawn_codes(model, processor, settings)

    make_folder(out_dir / "images")
    variants: dict[str, dict[str, Any]] = {}
    spoilt = spoil(codes, blank[0], num_pixel, settings.seed)
    spoilt_drawings = spoil(drawn, blank[0], num_pixel, settings.seed) if prompts else {}
    for name, variant in spoilt.items():
        rebuilt = _decoded(model, variant, settings.batch_size)
        scores = image_scores(images, rebuilt)
        answers = _answers(model, processor, asked, variant, settings.batch_size)
        variants[name] = {
            **_vqa_scores(asked, answers),
            **{key: mean_with_interval(scores[key]) for key in ("psnr", "ssim")},
        }
        if prompts:
            pictures = processor.pictures(_decoded(model, spoilt_drawings[name], 64))
            variants[name]["drawing"] = _drawing_score(pictures, prompts)
        _save(rebuilt, out_dir / "images", name)
    summary = {
        "task": "sensitivity",
        "num_images": len(chosen),
        "num_questions": len(asked),
        "num_drawings": len(prompts),
        "resolution": size,
        "data_fingerprint": dataset.fingerprint,
        "variants": variants,
        "verdicts": verdicts(variants),
        **{key: getattr(settings, key) for key in ("model", "data", "seed")},
        "checkpoint_fingerprint": model_fingerprint(settings.model),
        "commit": (describe_environment()["git"] or {}).get("commit"),
    }
    summary["as_they_must"] = all(
        fell for scores in summary["verdicts"].values() for fell in scores.values()
    )
    write_json(out_dir / "summary.json", summary)
    write_reports(_report(summary, asked), out_dir)
    return summary


def verdicts(variants: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, bool]]:
    """Variant → score that must fall → whether it lies below the interval of the model as it is."""
    whole = variants[AS_IT_IS]
    found = {}
    for name, keys in MUST_FALL.items():
        measured = [key for key in keys if key in whole and whole[key]["interval"]]
        found[name] = {
            key: bool(variants[name][key]["value"] < whole[key]["interval"][0]) for key in measured
        }
    return found


def sensitivity_table(summary: Mapping[str, Any]) -> Table:
    """One line a variant; ▼ marks what fell and had to, ! what had to and did not."""
    variants = summary["variants"]
    keys = [key for key in NAMES if key in variants[AS_IT_IS]]
    rows = []
    for name, scores in variants.items():
        cells = []
        for key in keys:
            shown = _shown(key, scores[key]["value"])
            verdict = summary["verdicts"].get(name, {}).get(key)
            cells.append(
                shown
                + {True: "\N{NO-BREAK SPACE}▼", False: "\N{NO-BREAK SPACE}!", None: ""}[verdict]
            )
        rows.append((name, VARIANTS[name], *cells))
    header = ("Codes", "What the model gets", *(NAMES[key] for key in keys))
    note = (
        f"{summary['num_images']:,} images with {summary['num_questions']:,} questions, "
        f"{summary['num_drawings']:,} drawings judged by the easy-VQA rule. ▼ had to fall and lies "
        "below the 95 % interval of the model as it is; ! had to and does not."
    )
    return Table("What the numbers are sensitive to", header, rows, note)


def command(args: Namespace) -> Path:
    """Run `semhitok eval sensitivity`; returns the folder that was written."""
    from runtime.run_folder import RunDirectory

    settings = SensitivitySettings(
        str(args.model), str(args.data), args.max_images, args.seeds, args.batch_size, args.seed
    )
    RunDirectory(args.out).start(settings, "semhitok eval sensitivity")
    summary = evaluate(settings, args.out)
    table = sensitivity_table(summary)
    for row in (table.header, *table.rows):
        print("  ".join([f"{row[0]:<24}", *(f"{cell:>20}" for cell in row[2:])]))
    return Path(args.out)


def _codes(model: Any, images: Tensor, batch_size: int) -> Tensor:
    """(B, N) flat codes on the CPU."""
    parts = [model.get_image_tokens(part.to(model.device)) for part in images.split(batch_size)]
    return model.vocabulary.image_codes(torch.cat(parts)).cpu()


def _decoded(model: Any, codes: Tensor, batch_size: int) -> Tensor:
    """(B, 3, H, W) in [-1, 1] on the CPU."""
    tokens = model.vocabulary.token_ids(codes).to(model.device)
    parts = [model.decode_image_tokens(part) for part in tokens.split(batch_size)]
    return torch.cat(parts).float().cpu()


def _drawn_codes(
    model: Any, processor: Any, settings: SensitivitySettings
) -> tuple[Tensor, list[Any]]:
    """(B, N) codes of the drawing task, each with its prompt; nothing where it is left out."""
    from eval.drawing.easy_vqa import drawing_prompts

    prompts = [prompt for prompt in drawing_prompts() for _ in range(settings.seeds)]
    if not prompts:
        return torch.empty(0), []
    inputs = processor.drawings([prompt.text for prompt in prompts]).to(model.device)
    seeds = list(range(len(prompts)))
    token_ids = model.generate(**inputs, generation_mode="image", seeds=seeds)
    return model.vocabulary.image_codes(token_ids).cpu(), prompts


def _answers(
    model: Any, processor: Any, asked: Sequence[tuple[int, Any]], codes: Tensor, batch_size: int
) -> list[str]:
    """Greedy answers, to questions about images that are given as codes."""
    from mllm.serving.answering import Answerer

    answerer = Answerer(model, processor)
    tokens = model.vocabulary.token_ids(codes)
    prompts = [processor.chat.question(question.question) for _, question in asked]
    # Questions of like length share a batch, which leaves little padding to compute on.
    order = sorted(range(len(asked)), key=lambda index: len(prompts[index]))
    answers = [""] * len(asked)
    for start in range(0, len(order), batch_size):
        part = order[start : start + batch_size]
        images = [[tokens[asked[index][0]]] for index in part]
        texts = answerer.answer([prompts[index] for index in part], images)
        for index, text in zip(part, texts, strict=True):
            answers[index] = text
    return answers


def _vqa_scores(asked: Sequence[tuple[int, Any]], answers: Sequence[str]) -> dict[str, Any]:
    """Accuracy by the easy-VQA rule."""
    right, is_open = [], []
    for (_, question), answer in zip(asked, answers, strict=True):
        right.append(easy_vqa.judge(question, answer)[1] == 1)
        is_open.append(not is_yes_no(question.answers))
    scores = {"vqa": _share(right)}
    if any(is_open):
        scores["vqa_open"] = _share([r for r, o in zip(right, is_open, strict=True) if o])
    return scores


def _drawing_score(pictures: Sequence[Any], prompts: Sequence[Any]) -> dict[str, Any]:
    from eval.drawing.easy_vqa import judge

    return _share(
        [judge(p, prompt)["correct"] for p, prompt in zip(pictures, prompts, strict=True)]
    )


def _share(right: Sequence[bool]) -> dict[str, Any]:
    interval = list(wilson_interval(sum(right), len(right)))
    return {"value": sum(right) / len(right), "interval": interval, "num": len(right)}


def _save(rebuilt: Tensor, folder: Path, name: str) -> None:
    from data_pipelines.images import to_pil

    for place in range(min(NUM_SHOWN, len(rebuilt))):
        to_pil(rebuilt[place]).save(folder / f"{place}_{name.replace(' ', '-')}.png")


def _shown(key: str, value: float) -> str:
    return f"{value:.1%}" if key in ("vqa", "vqa_open", "drawing") else f"{value:.3g}"


def _report(summary: Mapping[str, Any], asked: Sequence[tuple[int, Any]]) -> Report:
    names = list(VARIANTS)
    cards = [
        Card(
            f"image {place}",
            [(f"images/{place}_{name.replace(' ', '-')}.png", name) for name in names],
        )
        for place in range(min(NUM_SHOWN, summary["num_images"]))
    ]
    lead = (
        "Every score that must fall does."
        if summary["as_they_must"]
        else "Some score stays where it must fall; the table marks it with an exclamation mark."
    )
    shown = ("model", "checkpoint_fingerprint", "commit", "data", "data_fingerprint", "seed")
    settings = {key: summary[key] for key in shown}
    return Report(
        "What the numbers are sensitive to",
        lead,
        [sensitivity_table(summary)],
        cards,
        "The decoded codes of each variant",
        settings,
    )
