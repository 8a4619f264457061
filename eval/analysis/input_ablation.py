r"""Input ablation: each score again, with the codes of the images corrupted.

A score that stays when the image is taken away measures something else. The model is asked, decodes
and draws with its codes as they are, with those of another image, with a blank image's, and with
one half of each code from another image.

Example:
    semhitok eval input-ablation --model runs/quickstart/mllm/model \
        --data runs/quickstart/data/test --out runs/input-ablation

Shapes: B images, N positions.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_pipelines.images import to_pil, write_png
from data_pipelines.loading.dataset import PreparedDataset
from eval.analysis.settings import INPUT_ABLATION, InputAblationSettings
from eval.drawing.easy_vqa import DrawingPrompt, drawing_prompts, judge
from eval.measures.image_scores import image_scores
from eval.measures.intervals import fraction_with_interval, mean_with_interval
from eval.reports.page import Card, Report, Section, write_report
from eval.vqa.scorers import easy_vqa
from eval.vqa.scores import is_yes_no
from mllm.saved.fingerprint import model_fingerprint
from mllm.saved.load import load_for_inference
from mllm.serving.answering import Answerer, Question, plan_batches
from runtime.errors import UserError
from runtime.files import read_json, write_json
from runtime.memory import require_memory
from runtime.resume import holds_output
from runtime.run_folder import code_commit, make_folder, start_run

AS_IT_IS = "as it is"
VARIANTS = {
    AS_IT_IS: "the codes of the image itself",
    "shuffled images": "the codes of another image of the set",
    "blank images": "the codes of an even grey image",
    "shuffled semantic codes": "semantic codes of another image, its own pixel codes",
    "shuffled pixel codes": "its own semantic codes, pixel codes of another image",
}
SCORES = {
    "vqa": "Questions right",
    "vqa_open": "Open questions right",
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "drawing": "Drawings right",
}
FRACTIONS = ("vqa", "vqa_open", "drawing")
REPORTED = ("model", "checkpoint_fingerprint", "commit", "data", "data_fingerprint", "seed")
NUM_SHOWN = 6
"""Images whose decoded codes are shown."""
MARKS = {True: "\N{NO-BREAK SPACE}▼", False: "\N{NO-BREAK SPACE}!", None: ""}
DRAWN_AT_ONCE = 48
MUST_FALL = {
    "shuffled images": tuple(SCORES),
    "blank images": tuple(SCORES),
    "shuffled semantic codes": tuple(SCORES),
    "shuffled pixel codes": ("psnr", "ssim"),
}
"""What each variant must bring down, since it takes away what the score is about. Questions and the
shape of a drawing live in the semantic codes, so pixel codes may or may not move them."""


@torch.inference_mode()
@holds_output
def evaluate(settings: InputAblationSettings) -> Path:
    """Measure every variant, save and report; returns the folder.

    `summary.json` holds `variants` with the scores of each, and `as_they_must`: whether every score
    that must fall does, to below the interval of the model as it is.

    Raises:
        UserError: if there are too few images or no questions, or a path holds no model or data.
    """
    dataset = PreparedDataset(settings.data, images_only=True)
    wanted = min(settings.max_images, len(dataset))
    chosen = np.unique(np.linspace(0, len(dataset) - 1, wanted).astype(int)).tolist()
    asked = [(image, q) for image, i in enumerate(chosen) for q in dataset[i].questions]
    if not asked:
        raise UserError(f"{settings.data} has no questions, so there is nothing to answer.")
    model, processor = load_for_inference(settings.model)
    size = model.config.image_tokenizer_config.image_size
    # Held twice, as they are and rebuilt, as floats.
    held = 2 * len(chosen) * 3 * size**2 * 4
    require_memory(held, f"{len(chosen):,} images at {size}²", "give fewer --max-images")
    images = torch.stack([dataset.image_tensor(i, size) for i in chosen])
    grey = torch.zeros(1, 3, size, size)
    codes, blank = (_codes(model, part, settings.batch_size) for part in (images, grey))
    num_pixel = model.vocabulary.num_pixel_codes
    corrupted = corrupt(codes, blank[0], num_pixel, settings.seed)

    start_run(settings.out, settings, "semhitok eval input-ablation")
    pictures_folder = make_folder(settings.out / "images")
    drawn, prompts = _drawn_codes(model, processor, settings.seeds)
    corrupted_drawings = corrupt(drawn, blank[0], num_pixel, settings.seed) if prompts else {}
    variants: dict[str, dict[str, Any]] = {}
    for name, variant in corrupted.items():
        rebuilt = _decoded(model, variant, settings.batch_size)
        scores = image_scores(images, rebuilt)
        answers = _answers(Answerer(model, processor), asked, variant, settings.batch_size)
        found = variants[name] = _vqa_scores(asked, answers)
        found |= {key: mean_with_interval(scores[key]) for key in ("psnr", "ssim")}
        if prompts:
            drawings = processor.pictures(_decoded(model, corrupted_drawings[name], 64))
            judged = [judge(*pair)["correct"] for pair in zip(drawings, prompts, strict=True)]
            found["drawing"] = _fraction(judged)
        for number, image in enumerate(rebuilt[:NUM_SHOWN]):
            write_png(to_pil(image), pictures_folder / _picture_name(number, name))
    fell = verdicts(variants)
    summary = {
        "task": INPUT_ABLATION,
        "num_images": len(chosen),
        "num_questions": len(asked),
        "num_drawings": len(prompts),
        "resolution": size,
        "data_fingerprint": dataset.fingerprint,
        "variants": variants,
        "verdicts": fell,
        "as_they_must": all(all(scores.values()) for scores in fell.values()),
        "model": str(settings.model),
        "data": str(settings.data),
        "seed": settings.seed,
        "checkpoint_fingerprint": model_fingerprint(settings.model),
        "commit": code_commit(),
    }
    write_json(settings.out / "summary.json", summary)
    write_report(report_input_ablation(settings.out), settings.out)
    table = ablation_section(summary)
    for row in (table.header, *table.rows):
        print("  ".join([f"{row[0]:<24}", *(f"{cell:>20}" for cell in row[2:])]))
    return settings.out


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


def corrupt(codes: Tensor, blank: Tensor, num_pixel_codes: int, seed: int) -> dict[str, Tensor]:
    """The codes of every variant, in the order of `VARIANTS`, of (B, N) flat image codes and the
    (N,) codes of a blank image; the seed says who gets whose."""
    others = codes[partners(len(codes), seed)]
    semantic, pixel = codes // num_pixel_codes, codes % num_pixel_codes
    variants = (
        codes,
        others,
        blank.expand_as(codes),
        others // num_pixel_codes * num_pixel_codes + pixel,
        semantic * num_pixel_codes + others % num_pixel_codes,
    )
    return dict(zip(VARIANTS, variants, strict=True))


def verdicts(variants: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, bool]]:
    """Variant → score that must fall → whether it lies below the interval of the model as it is."""
    whole = variants[next(iter(VARIANTS))]
    return {
        name: {
            key: bool(variants[name][key]["value"] < whole[key]["interval"][0])
            for key in keys
            if key in whole and whole[key]["interval"]
        }
        for name, keys in MUST_FALL.items()
    }


def _codes(model: Any, images: Tensor, batch_size: int) -> Tensor:
    """(B, N) flat codes on the CPU."""
    parts = [model.get_image_tokens(part.to(model.device)) for part in images.split(batch_size)]
    return model.vocabulary.image_codes(torch.cat(parts)).cpu()


def _decoded(model: Any, codes: Tensor, batch_size: int) -> Tensor:
    """(B, 3, H, W) in [-1, 1] on the CPU."""
    tokens = model.vocabulary.token_ids(codes).to(model.device)
    parts = [model.decode_image_tokens(part) for part in tokens.split(batch_size)]
    return torch.cat(parts).float().cpu()


def _drawn_codes(model: Any, processor: Any, seeds: int) -> tuple[Tensor, list[DrawingPrompt]]:
    """(B, N) codes of the drawing task, each with its prompt; nothing for 0 seeds."""
    prompts = [prompt for prompt in drawing_prompts() for _ in range(seeds)]
    if not prompts:
        return torch.empty(0), []
    parts = []
    for start in range(0, len(prompts), DRAWN_AT_ONCE):
        part = prompts[start : start + DRAWN_AT_ONCE]
        inputs = processor.drawings([prompt.text for prompt in part]).to(model.device)
        numbers = list(range(start, start + len(part)))
        parts.append(model.generate(**inputs, generation_mode="image", seeds=numbers))
    return model.vocabulary.image_codes(torch.cat(parts)).cpu(), prompts


def _answers(
    answerer: Answerer, asked: Sequence[tuple[int, Any]], codes: Tensor, batch_size: int
) -> list[str]:
    """Greedy answers, to questions about images that are given as codes."""
    tokens = answerer.model.vocabulary.token_ids(codes)
    chat = answerer.processor.chat
    questions = [Question(chat.question(q.question), (image,)) for image, q in asked]
    lengths = [len(question.prompt) for question in questions]
    batches = plan_batches(lengths, batch_size, window=len(lengths))
    answers: dict[int, str] = {}
    for batch, found in answerer.answer_list(questions, batches, lambda keys: list(tokens[keys])):
        answers |= zip(batch, (answer.text for answer in found), strict=True)
    return [answers[i] for i in range(len(asked))]


def _vqa_scores(asked: Sequence[tuple[int, Any]], answers: Sequence[str]) -> dict[str, Any]:
    """Accuracy by the easy-VQA rule."""
    right = [easy_vqa.judge(q, a)[1] == 1 for (_, q), a in zip(asked, answers, strict=True)]
    scores = {"vqa": _fraction(right)}
    if of_open := [r for (_, q), r in zip(asked, right, strict=True) if not is_yes_no(q.answers)]:
        scores["vqa_open"] = _fraction(of_open)
    return scores


def _fraction(right: Sequence[bool]) -> dict[str, Any]:
    return fraction_with_interval(right) | {"num": len(right)}


def ablation_section(summary: Mapping[str, Any]) -> Section:
    """One line a variant; ▼ marks what fell and had to, ! what had to and did not."""
    variants = summary["variants"]
    keys = [key for key in SCORES if key in variants[AS_IT_IS]]
    rows = []
    for name, scores in variants.items():
        fell = summary["verdicts"].get(name, {})
        values = ((key, scores[key]["value"]) for key in keys)
        cells = [
            (f"{value:.1%}" if key in FRACTIONS else f"{value:.3g}") + MARKS[fell.get(key)]
            for key, value in values
        ]
        rows.append((name, VARIANTS[name], *cells))
    header = ("Codes", "What the model gets", *(SCORES[key] for key in keys))
    note = (
        f"{summary['num_images']:,} images with {summary['num_questions']:,} questions, "
        f"{summary['num_drawings']:,} drawings judged by the easy-VQA rule. ▼ had to fall and lies "
        "below the 95 % interval of the model as it is; ! had to and does not."
    )
    return Section("Scores with corrupted codes", header=header, rows=rows, note=note)


def report_input_ablation(folder: Path) -> Report:
    """The report of the evaluation in a folder."""
    summary = read_json(folder / "summary.json")
    cards = []
    for number in range(min(NUM_SHOWN, summary["num_images"])):
        files = [folder / "images" / _picture_name(number, name) for name in VARIANTS]
        cards.append(Card(f"image {number}", list(zip(files, VARIANTS, strict=True))))
    lead = (
        "Every score that must fall does."
        if summary["as_they_must"]
        else "Some score stays where it must fall; the table marks it with an exclamation mark."
    )
    return Report(
        "Input ablation",
        f"Each score again, with the images taken away or half of their codes replaced. {lead}",
        [ablation_section(summary), Section("The decoded codes of each variant", cards=cards)],
        {key: summary[key] for key in REPORTED},
    )


def _picture_name(number: int, variant: str) -> str:
    return f"{number}_{variant.replace(' ', '-')}.png"
