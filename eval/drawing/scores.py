"""Native scores of finished drawings; each adds to the summary of a benchmark."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from eval.drawing import geneval_rule
from eval.drawing.layouts import LAYOUTS, Prompt, split_grid
from runtime.errors import UserError, says

if TYPE_CHECKING:
    from eval.drawing.task import DrawingTaskSettings
    from eval.measures.image_source import EvaluationImages
    from eval.measures.set_scores import SetDistances

Scorer = Callable[[dict[str, Any]], None]
"""Adds to a summary: its `scores` by name, `judged` rows, and what they depend on."""

BATCH = 32  # images that a network looks at together


def scorers(settings: "DrawingTaskSettings", prompts: Sequence[Prompt]) -> list[Scorer]:
    """What is to be done to the finished drawings; each adds to the summary."""
    from eval.drawing.clip_score import Clip

    task, out = settings.task, settings.folder
    found: list[Scorer] = []
    clip = Clip(settings.clip) if settings.clip else None
    if settings.detector:
        if task != "geneval":
            raise UserError(f"A detector judges geneval alone, not {task}.")
        if clip is None:
            raise UserError("GenEval's colours need a CLIP: give --clip, officially ViT-L/14.")
        found.append(_geneval(settings, prompts, clip))
    if settings.judge:
        if task not in ("dpg", "geneval2"):
            raise UserError(f"A judge answers the questions of dpg and geneval2, not of {task}.")
        found.append(_questions(settings, prompts))
    if clip is not None:
        found.append(lambda into: _clip_scores(into, clip, out, task, prompts))
    if settings.networks:
        if settings.reference is None:
            raise UserError("A set distance needs real images: give --reference.")
        found.append(_set_distances(settings, prompts))
    elif settings.reference is not None:
        raise UserError("Real images are for a set distance: name its feature network, --network.")
    return found


def _pictures(out: Path, task: str, prompt: Prompt) -> list[Image.Image]:
    """The drawings of a prompt, a grid taken apart."""
    found = [Image.open(out / path).convert("RGB") for path in prompt.paths]
    return split_grid(found[0]) if LAYOUTS[task].grid else found


def _geneval(settings: "DrawingTaskSettings", prompts: Sequence[Prompt], clip: Any) -> Scorer:
    from eval.drawing.clip_score import ColourNamer
    from eval.drawing.geneval_detector import DEFAULT, NOTE, Detector

    for prompt in prompts:
        if complaint := geneval_rule.complaint(prompt.data):
            raise UserError(f"{settings.prompts}: the prompt {prompt.text[:80]!r} {complaint}.")
    detect = Detector(DEFAULT if settings.detector == "default" else str(settings.detector))
    namer = ColourNamer(clip)

    def score(found: dict[str, Any]) -> None:
        from runtime.progress import Progress

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


def _questions(settings: "DrawingTaskSettings", prompts: Sequence[Prompt]) -> Scorer:
    from eval.drawing.question_scores import dpg_questions, tifa_questions
    from eval.drawing.vlm_judge import load_judge

    is_dpg = settings.task == "dpg"
    if is_dpg and any(not prompt.data for prompt in prompts):
        raise UserError(f"{settings.prompts} has no questions: give dpg_bench.csv to a judge.")
    for prompt in prompts:
        try:
            dpg_questions(prompt.data) if is_dpg else tifa_questions(prompt.data)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{settings.prompts}: the questions about {prompt.text[:80]!r} are not as the "
                f"benchmark publishes them ({says(error)}); give its own file."
            ) from error
    judge = load_judge(str(settings.judge), settings.model)
    return partial(_dpg if is_dpg else _soft_tifa, settings.folder, prompts, judge)


def _dpg(folder: Path, prompts: Sequence[Prompt], judge: Any, found: dict[str, Any]) -> None:
    from eval.drawing.question_scores import DPG_RULE, dpg_image_score, dpg_questions, dpg_score
    from eval.drawing.vlm_judge import probability_of_yes
    from runtime.progress import Progress

    soft: list[Any] = []
    with Progress(len(prompts), "judge", "prompt") as progress:
        for number, prompt in enumerate(prompts):
            # The official script leaves out the table's first row.
            questions = dpg_questions(prompt.data[1:] if number == 0 else prompt.data)
            answers = [
                {q["id"]: probability_of_yes(judge, picture, q["question"]) for q in questions}
                for picture in _pictures(folder, "dpg", prompt)
            ]
            row: dict[str, Any] = {"prompt": prompt.text, "image": prompt.paths[0]}
            row["answers"] = answers
            if questions:
                soft.append((questions, answers))
                hard = [_as_yes_or_no(each) for each in answers]
                row["score"] = sum(dpg_image_score(questions, each) for each in hard) / len(hard)
            found["judged"].append(row)
            progress.update(1)
    hard_rows = [(asked, [_as_yes_or_no(each) for each in answers]) for asked, answers in soft]
    result = dpg_score(hard_rows)
    by_probability = dpg_score(soft)
    result["soft"] = {key: by_probability[key] for key in ("accuracy", "interval")}
    found |= {"rule": DPG_RULE, "judge": judge.label, "dpg": result}
    for name, each in (("DPG-Bench", result), ("DPG-Bench by probabilities", by_probability)):
        found["scores"][f"{name}, judged by {judge.label}"] = {
            "value": each["accuracy"],
            "interval": each["interval"],
            "num_prompts": each["num_prompts"],
        }


def _as_yes_or_no(answers: dict[int, float]) -> dict[int, float]:
    return {key: float(probability >= 0.5) for key, probability in answers.items()}


def _soft_tifa(folder: Path, prompts: Sequence[Prompt], judge: Any, found: dict[str, Any]) -> None:
    from eval.drawing.question_scores import TIFA_RULE, soft_tifa, tifa_questions
    from runtime.progress import Progress

    rows = []
    with Progress(len(prompts), "judge", "prompt") as progress:
        for prompt in prompts:
            asked, skills = tifa_questions(prompt.data)
            picture = _pictures(folder, "geneval2", prompt)[0]
            said = [math.exp(judge.log_likelihood(picture, text, answer)) for text, answer in asked]
            rows.append((skills, said))
            row = {"prompt": prompt.text, "image": prompt.paths[0], "answers": said}
            found["judged"].append(row | {"score": sum(said) / len(said)})
            progress.update(1)
    result = soft_tifa(rows)
    found |= {"rule": TIFA_RULE, "judge": judge.label, "geneval2": result}
    found["scores"][f"Soft-TIFA AM, judged by {judge.label}"] = {
        "value": result["accuracy"],
        "interval": result["interval"],
        "num_prompts": result["num_prompts"],
    }
    found["scores"][f"Soft-TIFA GM, judged by {judge.label}"] = result["geometric"]


def _clip_scores(
    found: dict[str, Any], clip: Any, out: Path, task: str, prompts: Sequence[Prompt]
) -> None:
    from eval.drawing.clip_score import CLIPSCORE_RULE
    from eval.reconstruction.scores import mean_with_interval

    values: list[float] = []
    rows = []
    for prompt in prompts:
        pictures = _pictures(out, task, prompt)
        own = clip.scores(pictures, [prompt.text] * len(pictures))
        row = {"prompt": prompt.text, "image": prompt.paths[0], "clip_scores": own}
        rows.append(row | {"score": sum(own) / len(own)})
        values += own
    if not found["judged"]:
        found["judged"] = rows
    found |= {"clip": clip.label, "clipscore_rule": CLIPSCORE_RULE}
    found["scores"][f"CLIPScore ({clip.label})"] = mean_with_interval(values) | {
        "num_images": len(values)
    }


def _set_distances(settings: "DrawingTaskSettings", prompts: Sequence[Prompt]) -> Scorer:
    """Drawings against real images cut to their size; of MJHQ each category too.

    clean-fid cuts nothing: it scales drawings and real images of any shape to Inception's square.
    """
    from eval.measures.feature_networks import INCEPTION_SIZE, load_feature_network
    from eval.measures.image_source import EvaluationImages
    from eval.measures.set_distance import require_enough_images
    from eval.measures.set_scores import require_pairs

    networks = [load_feature_network(name) for name in settings.networks]
    is_clean = [network.is_clean for network in networks]
    if any(is_clean) and not all(is_clean):
        raise UserError(
            "inception-clean takes the real images uncut, and other networks cut to the drawings' "
            "size: measure them apart."
        )
    real = EvaluationImages(str(settings.reference), "stretch" if any(is_clean) else "adm")
    real_size = INCEPTION_SIZE if any(is_clean) else None
    number = sum(4 if LAYOUTS[settings.task].grid else len(prompt.paths) for prompt in prompts)
    require_pairs(settings.distances, number, len(real))
    if "frechet" in settings.distances:
        for network in networks:
            for count, what in ((number, "The drawing"), (len(real), str(settings.reference))):
                require_enough_images(count, network.dim, what, network.label)

    def score(found: dict[str, Any]) -> None:
        from eval.measures.image_source import CROPS
        from eval.measures.set_scores import SetDistances

        distances = SetDistances(networks, settings.distances)
        absent = _compare_sets(settings, prompts, real, real_size, distances)
        found["scores"] |= distances.scores()
        by_category = {} if absent else distances.group_scores()
        for category, scores in by_category.items():
            found["scores"] |= {f"{name}: {category}": part for name, part in scores.items()}
        found |= {
            "feature_networks": [network.label for network in networks],
            "reference": str(settings.reference),
            "reference_fingerprint": real.fingerprint,
            "crop": f"of the real images: {CROPS[real.crop].about}",
        }
        if settings.task == "mjhq":
            found |= {"by_category": by_category, "by_category_absent": absent}

    return score


def _compare_sets(
    settings: "DrawingTaskSettings",
    prompts: Sequence[Prompt],
    real: "EvaluationImages",
    real_size: int | None,
    distances: "SetDistances",
) -> str | None:
    """Show both sets to the networks, of MJHQ by category.

    Args:
        settings: whose drawings.
        prompts: in their order.
        real: images.
        real_size: pixels of their sides; None is that of the drawings.
        distances: gets all of them.

    Returns:
        Why categories are not told apart, where they cannot be; None where they are, or are not
        wanted.
    """
    import torch

    from data_pipelines.images import to_tensor
    from runtime.progress import Progress

    out, task = settings.folder, settings.task
    with Image.open(out / prompts[0].paths[0]) as first:
        size = first.width // (2 if LAYOUTS[task].grid else 1)
    # MJHQ's real images lie in a folder a category, as its drawings do.
    of_real = [_category(real.record_id(i)) if task == "mjhq" else None for i in range(len(real))]
    of_prompts = [_category(p.paths[0]) if task == "mjhq" else None for p in prompts]
    absent = _lacking_category(of_real, of_prompts)
    if absent:
        of_real, of_prompts = [None] * len(of_real), [None] * len(of_prompts)
    with Progress(len(real) + len(prompts), "compare", "image") as progress:
        for group in dict.fromkeys(of_real):
            places = [i for i, its in enumerate(of_real) if its == group]
            for start in range(0, len(places), BATCH):
                part = places[start : start + BATCH]
                images = torch.stack([real.image_tensor(i, real_size or size) for i in part])
                distances.add(images, None, group if group in of_prompts else None)
                progress.update(len(part))
        for prompt, group in zip(prompts, of_prompts, strict=True):
            pictures = [to_tensor(picture) for picture in _pictures(out, task, prompt)]
            distances.add(None, torch.stack(pictures), group)
            progress.update(1)
    return absent


def _category(path: str) -> str:
    return Path(path).parent.name


def _lacking_category(
    of_real: Sequence[str | None], of_prompts: Sequence[str | None]
) -> str | None:
    """Which category of the prompts has too few images for a distance of its own."""
    for which, what in ((of_prompts, "drawings"), (of_real, "real images")):
        for category in dict.fromkeys(of_prompts):
            if category is not None and (number := list(which).count(category)) < 2:
                return f"{number} {what} in the folder {category}, where 2 are the least"
    return None
