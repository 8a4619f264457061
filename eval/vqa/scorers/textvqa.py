"""TextVQA: soft accuracy against ten annotators (Singh et al. 2019; MMF's `m4c_evaluators.py`)."""

from eval.vqa.scorers.task import SHORT_ANSWER, BenchmarkQuestion, Task
from eval.vqa.scorers.vqa_text import leave_one_out, strip_punctuation, ten_answers, unify_words


def judge(question: BenchmarkQuestion, prediction: str) -> tuple[str, float]:
    """Score one answer by the official rule; unlike VQAv2's it cleans always.

    Returns:
        The answer as it was compared, and its score in [0, 1].
    """
    compared = clean(prediction)
    return compared, leave_one_out(compared, [clean(answer) for answer in question.answers])


def clean(text: str) -> str:
    """The official answer processor.

    Commas and question marks go before anything else, so the comma rule of VQAv2 never applies:
    "1,000 red/blue" is "1000 red blue" here. "'s" becomes a word of its own.
    """
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return unify_words(strip_punctuation(text.replace("\n", " ").replace("\t", " ").strip()))


TASK = Task(
    name="textvqa",
    rule="TextVQA (m4c_evaluators.py): mean over ten annotators of min(1, matches among the other "
    "nine / 3); answers are always cleaned, without commas and question marks",
    judge=judge,
    complaint=lambda question: ten_answers(question.answers),
    instruction=SHORT_ANSWER,
)
