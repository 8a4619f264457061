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
from eval.analysis.input_ablation_report import (
    NUM_SHOWN,
    VARIANTS,
    ablation_section,
    picture_name,
    report_input_ablation,
)
from eval.analysis.settings import INPUT_ABLATION, InputAblationSettings
from eval.drawing.easy_vqa import DrawingPrompt, drawing_prompts, judge
from eval.measures.image_scores import image_scores
from eval.measures.intervals import fraction_with_interval, mean_with_interval
from eval.reports.page import write_report
from eval.vqa.scorers import easy_vqa
from eval.vqa.scores import is_yes_no
from mllm.saved.fingerprint import model_fingerprint
from mllm.saved.load import load_for_inference
from mllm.serving.answering import Answerer, Question, plan_batches
from runtime.errors import UserError
from runtime.files import write_json
from runtime.memory import require_memory
from runtime.run_folder import RunDirectory, code_commit, make_folder

DRAWN_AT_ONCE = 48
MUST_FALL = {
    "shuffled images": ("vqa", "vqa_open", "psnr", "ssim", "drawing"),
    "blank images": ("vqa", "vqa_open", "psnr", "ssim", "drawing"),
    "shuffled semantic codes": ("vqa", "vqa_open", "psnr", "ssim", "drawing"),
    "shuffled pixel codes": ("psnr", "ssim"),
}
"""What each variant must bring down, since it takes away what the score is about. Questions and the
shape of a drawing live in the semantic codes, so pixel codes may or may not move them."""


@torch.inference_mode()
def evaluate(settings: InputAblationSettings) -> Path:
    """Measure every variant, save and report.

    `summary.json` holds `variants` with the scores of each, and `as_they_must`: whether every score
    that must fall does, to below the interval of the model as it is.

    Returns:
        The folder that was written.

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

    RunDirectory(settings.out).start(settings, "semhitok eval input-ablation")
    pictures_folder = make_folder(settings.out / "images")
    drawn, prompts = _drawn_codes(model, processor, settings.seeds)
    corrupted_drawings = corrupt(drawn, blank[0], num_pixel, settings.seed) if prompts else {}
    variants: dict[str, dict[str, Any]] = {}
    for name, variant in corrupted.items():
        rebuilt = _decoded(model, variant, settings.batch_size)
        scores = image_scores(images, rebuilt)
        answers = _answers(Answerer(model, processor), asked, variant, settings.batch_size)
        variants[name] = {
            **_vqa_scores(asked, answers),
            **{key: mean_with_interval(scores[key]) for key in ("psnr", "ssim")},
        }
        if prompts:
            pictures = processor.pictures(_decoded(model, corrupted_drawings[name], 64))
            variants[name]["drawing"] = _drawing_score(pictures, prompts)
        for number, image in enumerate(rebuilt[:NUM_SHOWN]):
            write_png(to_pil(image), pictures_folder / picture_name(number, name))
    found = verdicts(variants)
    summary = {
        "task": INPUT_ABLATION,
        "num_images": len(chosen),
        "num_questions": len(asked),
        "num_drawings": len(prompts),
        "resolution": size,
        "data_fingerprint": dataset.fingerprint,
        "variants": variants,
        "verdicts": found,
        "as_they_must": all(fell for scores in found.values() for fell in scores.values()),
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
    """The codes of every variant, in the order of `VARIANTS`.

    Args:
        codes: (B, N) flat image codes.
        blank: (N,) those of a blank image.
        num_pixel_codes: M.
        seed: of who gets whose.
    """
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
    answers = [""] * len(asked)
    for batch, found in answerer.answer_list(questions, batches, lambda keys: list(tokens[keys])):
        for i, answer in zip(batch, found, strict=True):
            answers[i] = answer.text
    return answers


def _vqa_scores(asked: Sequence[tuple[int, Any]], answers: Sequence[str]) -> dict[str, Any]:
    """Accuracy by the easy-VQA rule."""
    questions = [question for _, question in asked]
    right = [easy_vqa.judge(q, a)[1] == 1 for q, a in zip(questions, answers, strict=True)]
    is_open = [not is_yes_no(question.answers) for question in questions]
    scores = {"vqa": _fraction(right)}
    if any(is_open):
        scores["vqa_open"] = _fraction([r for r, o in zip(right, is_open, strict=True) if o])
    return scores


def _drawing_score(pictures: Sequence[Any], prompts: Sequence[DrawingPrompt]) -> dict[str, Any]:
    return _fraction([judge(*pair)["correct"] for pair in zip(pictures, prompts, strict=True)])


def _fraction(right: Sequence[bool]) -> dict[str, Any]:
    return fraction_with_interval(right) | {"num": len(right)}
