"""From answers to a summary: accuracy with intervals, by type, and the baselines beside it."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from eval.measures.intervals import wilson_interval
from eval.vqa.scorers.easy_vqa import is_yes_no
from eval.vqa.scorers.task import BenchmarkQuestion, Judged, Task

ITSELF = "the evaluated questions themselves"
"""What the question-only baseline counts where there is no training set: an upper bound then."""

Counted = Iterable[tuple[str, Sequence[str]]]
"""Question strings with their answers."""


def judge_all(
    task: Task, questions: Sequence[BenchmarkQuestion], predictions: Mapping[str, str]
) -> list[Judged]:
    """Every question with what the rule makes of its prediction, in the order of the questions."""
    pairs = ((question, predictions[question.question_id]) for question in questions)
    return [Judged(*pair, *task.judge(*pair)) for pair in pairs]


def summarize(
    task: Task, judged: Sequence[Judged], counted_on: Counted | None = None
) -> dict[str, Any]:
    """The scores of answers judged by the rule of a task.

    Args:
        task: whose rule it is.
        judged: at least one.
        counted_on: what the question-only baseline counts; None counts the questions themselves.

    Returns:
        `overall`, `open`, `yes_no` and each entry of `by_type` as `mean_score` gives them;
        `yes_no_share`; `num_unread`, the answers in which the rule could read nothing; the
        baselines; and the benchmark's own `figures`.
    """
    questions = [entry.question for entry in judged]
    by_type: dict[str, list[float]] = defaultdict(list)
    by_form: dict[str, list[Judged]] = {"open": [], "yes_no": []}
    for entry in judged:
        form = "yes_no" if is_yes_no(entry.question.answers) else "open"
        by_form[form].append(entry)
        by_type[entry.question.category or form.replace("_", "/")].append(entry.score)
    said = [(entry.read_as or entry.prediction).strip().lower() for entry in judged]
    given = Counter(_comparable(answer) for q in questions for answer in q.answers)
    texts = Counter(q.question.strip().lower() for q in questions)
    counted = None if counted_on is None else list(counted_on)
    open_questions = [entry.question for entry in by_form["open"]]
    return {
        "rule": task.rule,
        "overall": mean_score([entry.score for entry in judged]),
        **{form: mean_score([e.score for e in entries]) for form, entries in by_form.items()},
        "yes_no_share": len(by_form["yes_no"]) / len(judged),
        "num_unread": sum(map(task.is_unread, judged)),
        "answered_yes_share": said.count("yes") / len(judged),
        "by_type": {name: mean_score(by_type[name]) for name in sorted(by_type)},
        "figures": task.figures(judged),
        "question_only_baseline": question_only_accuracy(task, questions, counted),
        "open_question_only_baseline": (
            question_only_accuracy(task, open_questions, counted) if open_questions else None
        ),
        "repeated_question_share": sum(n for n in texts.values() if n > 1) / len(judged),
        "always_yes_baseline": constant_accuracy(task, questions, "yes"),
        "most_frequent_answer_baseline": constant_accuracy(
            task, questions, given.most_common(1)[0][0]
        ),
    }


def mean_score(scores: Sequence[float]) -> dict[str, Any]:
    """The mean of scores in [0, 1].

    Returns:
        `accuracy`, its Wilson 95 % `interval` (wider than need be for soft scores, whose variance
        is below that of right and wrong), `num_correct` (their sum) and `num_questions`; accuracy
        and interval are None where there is no question.
    """
    if not scores:
        return {"accuracy": None, "interval": None, "num_correct": 0, "num_questions": 0}
    total = sum(scores)
    total = int(total) if float(total).is_integer() else total
    return {
        "accuracy": total / len(scores),
        "interval": list(wilson_interval(total, len(scores))),
        "num_correct": total,
        "num_questions": len(scores),
    }


def question_only_accuracy(
    task: Task, questions: Sequence[BenchmarkQuestion], counted_on: Counted | None = None
) -> float:
    """Accuracy of answering each question string with its most frequent answer, the image unseen.

    On the easy-VQA test split this is 67.0 % counted on the training split, as a model that cannot
    see could do it, and 67.8 % counted on the test split itself, which peeks at the answers and is
    therefore the upper bound of every such model. Where question strings hardly repeat, the bound
    says little: compare `repeated_question_share`.

    Args:
        task: whose rule scores the guesses.
        questions: the questions to answer.
        counted_on: (question, accepted answers) to count; None counts `questions`. A question that
            is not among them is answered with the most frequent answer of all.

    Raises:
        ValueError: if there is nothing to count.
    """
    if counted_on is None:
        counted_on = [(q.question, q.answers) for q in questions]
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    overall: Counter[str] = Counter()
    for text, answers in counted_on:
        comparable = list(map(_comparable, answers))
        counts[text.lower().strip()].update(comparable)
        overall.update(comparable)
    if not overall:
        raise ValueError("The question-only baseline has no questions to count.")
    votes = (counts.get(q.question.lower().strip()) or overall for q in questions)
    guesses = (each.most_common(1)[0][0] for each in votes)
    pairs = zip(questions, guesses, strict=True)
    return sum(task.judge(*pair)[1] for pair in pairs) / len(questions)


def constant_accuracy(task: Task, questions: Sequence[BenchmarkQuestion], answer: str) -> float:
    """Accuracy of giving one answer to everything, in [0, 1]."""
    return sum(task.judge(question, answer)[1] for question in questions) / len(questions)


def _comparable(answer: str) -> str:
    """Lower case, but for the letter of an option."""
    answer = answer.strip()
    return answer if len(answer) == 1 and answer.isupper() else answer.lower()
