"""Rules for questions of one's own: exact, soft and by option."""

from eval.vqa.scorers import easy_vqa, vqav2
from eval.vqa.scorers.multiple_choice import BY_LETTER, LETTERS, letter_complaint
from eval.vqa.scorers.task import BenchmarkQuestion, Task
from eval.vqa.scorers.vqa_text import ten_answers


def judge_option(question: BenchmarkQuestion, prediction: str) -> tuple[str, float]:
    """The option whose letter or whole text the answer is; case and final period are forgiven."""
    said = prediction.strip().removesuffix(".").strip().lower()
    read = ""
    for letter, text in zip(LETTERS, question.options, strict=False):
        if said in (letter.lower(), f"({letter.lower()})", text.strip().lower().removesuffix(".")):
            read = letter
            break
    return read, float(bool(read) and read == question.answers[0])


EXACT = Task(
    name="exact",
    rule="exact match with an accepted answer after lower case and strip",
    judge=easy_vqa.judge,
)
SOFT = Task(
    name="soft",
    rule="soft accuracy against ten annotators, by the rule of VQAv2",
    judge=vqav2.judge,
    complaint=lambda question: ten_answers(question.answers),
)
OPTION = Task(
    name="option",
    rule="the answer is the right option's letter or text",
    judge=judge_option,
    complaint=letter_complaint,
    instruction=BY_LETTER,
)
