"""Scores of drawings by questions about them, which a vision-language model answers with
probabilities: DPG-Bench's tree and GenEval 2's Soft-TIFA.

The scores themselves are pure functions of a judge's answers, so any judge's can be scored.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from eval.drawing.layouts import Prompt
from eval.drawing.scored import Scored, Scorer, open_pictures
from eval.drawing.settings import GenerationSettings
from eval.measures.intervals import mean_with_interval
from eval.measures.pretrained import frozen, load_pretrained, short_name
from runtime.errors import UserError, says
from runtime.progress import Progress

DPG_RULE = (
    "DPG-Bench: the mean of a picture's questions, each answered yes or no, whichever is likelier; "
    "a question whose parent is answered no scores zero; categories by the raw answers of a "
    "prompt's last picture, as the official script has it, and its first row is left out as there"
)
TIFA_RULE = (
    "GenEval 2, Soft-TIFA: probability of the expected answer; arithmetic mean over the questions "
    "of a prompt (AM) and geometric mean (GM), then over prompts"
)
INSTRUCTION = "Answer with one word."


class VisionLanguageJudge:
    """Any image-text-to-text model of transformers with a chat template, by hub name or folder.

    Its `label` stands beside every score.

    Raises:
        UserError: if there is no such model.
    """

    def __init__(self, name: str):
        hint = "give a vision-language model's folder or a hub name that can be downloaded"
        classes = (AutoProcessor, AutoModelForImageTextToText)
        self.processor, model = load_pretrained("judge", name, hint, *classes)
        self.model = frozen(model)
        self.label = short_name(name)
        text = model.config.get_text_config()
        self.context_length: int | None = getattr(text, "max_position_embeddings", None)

    def check(self, questions: Sequence[str]) -> None:
        """Refuse, before the work, questions that the model cannot read with a small picture.

        Raises:
            UserError: if the longest one is too long.
        """
        if longest := max(questions, key=len, default=""):
            self._inputs(Image.new("RGB", (64, 64)), longest, "yes")

    @torch.inference_mode()
    def loglikelihood(self, image: Image.Image, question: str, answer: str) -> float:
        """Log-probability of an answer, in nats.

        Raises:
            UserError: if question, picture and answer are longer than the model reads.
        """
        inputs, ids = self._inputs(image, question, answer)
        own = self.model(**inputs).logits[0, -len(ids) - 1 : -1].double().log_softmax(-1)
        return float(own.gather(-1, ids.unsqueeze(-1)).sum())

    def _inputs(self, image: Image.Image, question: str, answer: str) -> tuple[Any, Tensor]:
        """What the model reads, one conversation without padding, and the answer's token ids."""
        content = [{"type": "image"}, {"type": "text", "text": f"{question} {INSTRUCTION}"}]
        prompt = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        inputs = self.processor(text=prompt, images=image.convert("RGB"), return_tensors="pt").to(
            self.model.device
        )
        # Tokens of the answer are put behind the prompt's, so that no merge reaches across.
        ending = self.processor.tokenizer(answer, add_special_tokens=False)["input_ids"]
        ids = torch.tensor(ending, device=self.model.device)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], ids[None]], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        length = inputs["input_ids"].shape[1]
        if self.context_length is not None and length > self.context_length:
            raise UserError(
                f"The question {question[:60]!r} with its picture takes {length:,} tokens, and "
                f"{self.label} reads at most {self.context_length:,}: name another --judge."
            )
        return inputs, ids

    def probability_of_yes(self, image: Image.Image, question: str) -> float:
        """Between yes and no alone, in [0, 1]."""
        scores = [self.loglikelihood(image, question, answer) for answer in ("yes", "no")]
        return float(torch.tensor(scores, dtype=torch.float64).softmax(0)[0])


def load_question_scorer(
    settings: GenerationSettings, prompts: Sequence[Prompt], folder: Path
) -> Scorer:
    """Load the judge of DPG-Bench or GenEval 2, for drawings in a folder.

    Raises:
        UserError: if there are no questions, they are not as the benchmark publishes them, or the
            judge cannot be loaded.
    """
    is_dpg = settings.task == "dpg"
    if is_dpg and any(not prompt.data for prompt in prompts):
        raise UserError(f"{settings.prompts} has no questions: give dpg_bench.csv to a judge.")
    asked: list[str] = []
    for prompt in prompts:
        try:
            asked += _asked(prompt.data, is_dpg)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{settings.prompts}: the questions about {prompt.text[:80]!r} are not as the "
                f"benchmark publishes them ({says(error)}); give its own file."
            ) from error
    judge = VisionLanguageJudge(str(settings.judge))
    judge.check(asked)
    return partial(_dpg if is_dpg else _soft_tifa, folder, prompts, judge)


def _asked(data: Any, is_dpg: bool) -> list[str]:
    """The questions about one prompt."""
    if is_dpg:
        return [question["question"] for question in dpg_questions(data)]
    return [question for question, _ in tifa_questions(data)[0]]


def dpg_questions(rows: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """The questions of one prompt from its rows of `dpg_bench.csv`, in order.

    Each has `id`, `question`, `category` and `parents` (ids; 0, no parent, left out).
    """
    return [
        {
            "id": int(row["proposition_id"]),
            "question": row["question_natural_language"],
            "category": row["tuple"].split("(")[0].strip(),
            "parents": [p for p in map(int, row["dependency"].split(",")) if p != 0],
        }
        for row in rows
    ]


def tifa_questions(row: Mapping[str, Any]) -> tuple[list[tuple[str, str]], list[str]]:
    """Questions with their right answers, and the skill of each, from a prompt's line of
    `geneval2_data.jsonl`."""
    asked = [(question, answer) for question, answer in row["vqa_list"]]
    skills = list(row.get("skills", ["question"] * len(asked)))
    if not asked or not all(isinstance(text, str) for pair in asked for text in pair):
        raise ValueError("vqa_list is no list of questions with their answers")
    if len(skills) != len(asked):
        raise ValueError(f"{len(asked)} questions and {len(skills)} skills")
    return asked, skills


def dpg_image_score(questions: Sequence[Mapping[str, Any]], answers: Mapping[int, bool]) -> float:
    """The score of one picture in [0, 1]; `answers` says of each id whether the answer is yes.

    A zeroed question counts as answered no for those that stand behind it.
    """
    scores = dict(answers)
    for question in questions:
        # A parent whose row the file lacks, the skipped first one, cannot say no.
        if not all(scores.get(parent, True) for parent in question["parents"]):
            scores[question["id"]] = False
    return float(np.mean([scores[question["id"]] for question in questions]))


def dpg_score(
    prompts: Sequence[tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[int, bool]]]],
) -> dict[str, Any]:
    """The benchmark's score, of each prompt's questions and the answers for each of its pictures.

    Returns:
        `accuracy` in [0, 1], its `interval` over prompts, and `by_task`: the categories, coarse and
        fine, each with `accuracy` and `num_questions`.
    """
    means = []
    categories: dict[str, list[float]] = defaultdict(list)
    for questions, pictures in prompts:
        means.append(float(np.mean([dpg_image_score(questions, found) for found in pictures])))
        for question in questions:
            raw = float(pictures[-1][question["id"]])
            fine = question["category"]
            for name in dict.fromkeys((fine.split("-")[0].strip(), fine)):
                categories[name].append(raw)
    return _over_prompts(means) | {"by_task": _means(categories)}


def soft_tifa(prompts: Sequence[tuple[Sequence[str], Sequence[float]]]) -> dict[str, Any]:
    """GenEval 2's scores, of each prompt's skills of questions and probabilities of right answers.

    Returns:
        `accuracy` (AM) and `geometric` (GM), each in [0, 1] with an interval, and `by_task`, the
        mean of each skill.
    """
    skills: dict[str, list[float]] = defaultdict(list)
    arithmetic, geometric = [], []
    for names, found in prompts:
        arithmetic.append(float(np.mean(found)))
        logs = np.log(np.maximum(found, 1e-12))  # one answer of probability zero makes it zero
        geometric.append(float(np.exp(logs.mean())))
        for name, probability in zip(names, found, strict=True):
            skills[name].append(probability)
    am, gm = _over_prompts(arithmetic), _over_prompts(geometric)
    return am | {"geometric": gm, "by_task": _means(skills)}


def _dpg(folder: Path, prompts: Sequence[Prompt], judge: VisionLanguageJudge) -> Scored:
    answered, rows = [], []
    with Progress(len(prompts), "judge", "prompt") as progress:
        for number, prompt in enumerate(prompts):
            # The official script leaves out the table's first row.
            questions = dpg_questions(prompt.data[1:] if number == 0 else prompt.data)
            probabilities = [
                {q["id"]: judge.probability_of_yes(picture, q["question"]) for q in questions}
                for picture in open_pictures(folder, "dpg", prompt)
            ]
            row: dict[str, Any] = {"prompt": prompt.text, "image": prompt.paths[0]}
            row |= {"answers": probabilities}
            if questions:
                answers = [{key: p >= 0.5 for key, p in each.items()} for each in probabilities]
                answered.append((questions, answers))
                row["score"] = float(np.mean([dpg_image_score(questions, a) for a in answers]))
            rows.append(row)
            progress.update(1)
    result = dpg_score(answered)
    about = {"rule": DPG_RULE, "judge": judge.label, "dpg": result}
    return Scored({f"DPG-Bench, judged by {judge.label}": _score(result)}, about, rows)


def _soft_tifa(folder: Path, prompts: Sequence[Prompt], judge: VisionLanguageJudge) -> Scored:
    answered, rows = [], []
    with Progress(len(prompts), "judge", "prompt") as progress:
        for prompt in prompts:
            asked, skills = tifa_questions(prompt.data)
            picture = open_pictures(folder, "geneval2", prompt)[0]
            said = [math.exp(judge.loglikelihood(picture, text, answer)) for text, answer in asked]
            answered.append((skills, said))
            row = {"prompt": prompt.text, "image": prompt.paths[0], "answers": said}
            rows.append(row | {"score": sum(said) / len(said)})
            progress.update(1)
    result = soft_tifa(answered)
    scores = {
        f"Soft-TIFA AM, judged by {judge.label}": _score(result),
        f"Soft-TIFA GM, judged by {judge.label}": _score(result["geometric"]),
    }
    return Scored(scores, {"rule": TIFA_RULE, "judge": judge.label, "geneval2": result}, rows)


def _score(result: Mapping[str, Any]) -> dict[str, Any]:
    return {"value": result["accuracy"]} | {k: result[k] for k in ("interval", "num_prompts")}


def _over_prompts(scores: Sequence[float]) -> dict[str, Any]:
    """The mean with its interval, which is cut where no score can be."""
    found = mean_with_interval(scores)
    interval = found["interval"] and [min(max(bound, 0.0), 1.0) for bound in found["interval"]]
    return {"accuracy": found["value"], "interval": interval, "num_prompts": len(scores)}


def _means(groups: Mapping[str, Sequence[float]]) -> dict[str, dict[str, Any]]:
    return {
        name: {"accuracy": float(np.mean(found)), "interval": None, "num_questions": len(found)}
        for name, found in sorted(groups.items())
    }
