"""How the model is asked: the text around a question, and how its answer is taken."""

import re
from dataclasses import dataclass

from data_pipelines.records import IMAGE_MARK
from eval.vqa.scorers.multiple_choice import LETTERS
from eval.vqa.scorers.task import BenchmarkQuestion
from eval.vqa.settings import AnswerBy

_NUMBERED_MARK = re.compile(r"<image (\d+)>")


@dataclass(frozen=True)
class Asking:
    """How questions are asked, saved with the answers."""

    answer_by: AnswerBy = "generation"
    """Written answers; or the likeliest letter or text of an option, where all have options."""
    instruction: str = ""
    """Written after each question, on a line of its own."""
    max_new_tokens: int = 16
    """Longest written answer."""

    def describe(self) -> str:
        """For people."""
        return {
            "generation": f"greedy, at most {self.max_new_tokens} new tokens",
            "letters": "likeliest letter of an option, listed with the question",
            "texts": "likeliest text of an option by its mean log-likelihood a token, none listed",
        }[self.answer_by]


def message(question: BenchmarkQuestion, asking: Asking) -> str:
    """What the user says: images at their marks, or first, then question, options, instruction.

    MMMU's `<image 2>` is a mark where it is named first, and "image 2" from then on.
    """
    lines = [question.question]
    if question.options and asking.answer_by != "texts":
        lines += [f"{x}. {text}" for x, text in zip(LETTERS, question.options, strict=False)]
    if asking.instruction:
        lines.append(asking.instruction)
    seen: set[str] = set()

    def mark(found: re.Match[str]) -> str:
        if found[1] in seen:
            return f"image {found[1]}"
        seen.add(found[1])
        return IMAGE_MARK

    text = _NUMBERED_MARK.sub(mark, "\n".join(lines))
    number = max(1, len(question.images))
    if text.count(IMAGE_MARK) != number:
        text = IMAGE_MARK * number + text.replace(IMAGE_MARK, "")
    return text


def candidates(question: BenchmarkQuestion, asking: Asking) -> tuple[str, ...]:
    """The texts whose likelihoods decide, in the order of the options; none of a written answer."""
    letters = tuple(LETTERS[: len(question.options)])
    return {"letters": letters, "texts": question.options, "generation": ()}[asking.answer_by]
