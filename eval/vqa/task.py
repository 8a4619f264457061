r"""Visual questions: answers of a saved model, or of any other system, by the official rules.

Examples:
    semhitok eval vqa --model runs/quickstart/mllm/model \
        --data runs/quickstart/data/test --out runs/vqa
    torchrun --nproc_per_node 8 -m semhitok eval vqa --model DIR --task gqa \
        --data testdev_balanced_questions.json --images GQA/images --out runs/gqa
    semhitok eval vqa --predictions runs/gqa/predictions.jsonl --task gqa
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_pipelines.loading.dataset import PreparedDataset, num_of
from data_pipelines.manifest import MANIFEST_NAME
from eval.reports.page import write_report
from eval.vqa.answering import SavedAnswer, answer_questions, describe_run, open_answers
from eval.vqa.asking import Asking
from eval.vqa.benchmarks.load import open_benchmark
from eval.vqa.benchmarks.own_lines import read_own_lines
from eval.vqa.benchmarks.question_set import QuestionSet, check_questions, describe, no_questions
from eval.vqa.predictions import made_by, match, prediction_rows, questions_of, read_predictions
from eval.vqa.report import report_questions, write_examples
from eval.vqa.scorers.multiple_choice import rotations
from eval.vqa.scorers.task import Task
from eval.vqa.scorers.tasks import find_task
from eval.vqa.scores import ITSELF, Counted, judge_all, summarize
from eval.vqa.settings import VQASettings
from mllm.saved.fingerprint import model_fingerprint
from runtime.errors import UserError
from runtime.files import write_json
from runtime.json_lines import note_left_out, write_rows
from runtime.rank_group import RankGroup
from runtime.ranks import is_main_rank
from runtime.resume import open_output
from runtime.run_folder import describe_environment, make_folder, start_run


def evaluate(settings: VQASettings) -> Path:
    """Answer a benchmark's questions, or take answers that are there, score them and save both.

    Every rank of a launch calls this and answers its part; a killed run resumes where it was.
    Writes `summary.json`, `predictions.jsonl` (each question with its answer and score),
    `examples.jsonl` with `images/` (the questions that the report shows), the report, and with a
    model `answers/`; returns the folder.

    Raises:
        UserError: if there are no questions, the rule does not fit them, predictions and questions
            do not match one to one, the folder has answers of another evaluation, or a model, a
            data set or an image is damaged.
    """
    task = _task_of(settings)
    out = _out_of(settings, task)
    with open_output(out, settings):
        return _evaluate(settings, task, out)


def _evaluate(settings: VQASettings, task: Task, out: Path) -> Path:
    found = _questions_of(settings, task)
    if found is not None:
        note_left_out(found.source, found.left_out)
    if settings.model is not None:
        assert found is not None
        _counted_on(found, settings.train_data)  # refuses data without questions before any work
        _ask_model(settings, task, found, out)
    else:
        _score_saved(settings, task, found, out)
        start_run(out, settings, "semhitok eval vqa")  # of what is refused nothing is left
    if is_main_rank():
        write_report(report_questions(out), out)
    return out


def check_data(settings: VQASettings) -> None:
    """Refuse prepared data without questions, in a `UserError`; other data say so when read."""
    folder = Path(settings.data or "")
    if (folder / MANIFEST_NAME).is_file() and not num_of([folder], "questions"):
        raise no_questions(folder)


def _task_of(settings: VQASettings) -> Task:
    if not settings.is_own_file:
        return find_task(settings.task)
    if settings.scoring:
        return find_task(settings.scoring)
    questions = read_own_lines(Path(settings.task)).questions
    without = sum(not q.options for q in questions)
    if 0 < without < len(questions) and is_main_rank():
        print(
            f"{settings.task}: {without:,} of {len(questions):,} questions have no options, so all "
            "are scored by exact match; put them into a file of their own to have options read",
            file=sys.stderr,
        )
    return find_task("exact" if without or not questions else "option")


def _questions_of(settings: VQASettings, task: Task) -> QuestionSet | None:
    """The questions to ask; None where those saved with the predictions are meant."""
    data = settings.task if settings.is_own_file else settings.data
    if settings.model is None and data is None:
        return None
    # Without a model pictures are for the report alone.
    needs_images = settings.model is not None or settings.images is not None
    found = open_benchmark(task, data, settings.images, settings.split, needs_images)
    if not settings.circular:
        return found
    if not all(q.options for q in found.questions):
        raise UserError(f"--circular rotates options, and {found.source} has questions without")
    return replace(found, questions=[each for q in found.questions for each in rotations(q)])


def _asking_of(settings: VQASettings, task: Task) -> Asking:
    instruction = settings.instruction
    if instruction is None:  # as most ask this benchmark; options that are not listed need none
        instruction = "" if settings.answer_by == "texts" else task.instruction
    max_new_tokens = settings.max_new_tokens or task.max_new_tokens
    return Asking(settings.answer_by, instruction, max_new_tokens)


def _out_of(settings: VQASettings, task: Task) -> Path:
    if settings.out is not None:
        return settings.out
    assert settings.predictions is not None
    path = settings.predictions
    return (path if path.is_dir() else path.parent) / f"scored-{task.name}"


def _ask_model(settings: VQASettings, task: Task, found: QuestionSet, out: Path) -> None:
    model_dir, asking, batch_size = settings.model, _asking_of(settings, task), settings.batch_size
    assert model_dir is not None
    with RankGroup() as ranks:
        # Once: it reads all of the weights.
        fingerprint = ranks.from_main(lambda: model_fingerprint(model_dir))
        open_answers(found, asking, out, batch_size, ranks, fingerprint)
        start_run(out, settings, "semhitok eval vqa")
        answers = answer_questions(model_dir, found, asking, out, batch_size, ranks)
        about = describe_run(model_dir, asking, batch_size, ranks, fingerprint)
        predictions = {key: answer.prediction for key, answer in answers.items()}
        ranks.from_main(lambda: _score(settings, task, found, predictions, out, about, answers))


def _score_saved(settings: VQASettings, task: Task, found: QuestionSet | None, out: Path) -> None:
    path = settings.predictions
    assert path is not None
    saved = path / "predictions.jsonl" if path.is_dir() else path
    if saved.resolve() == (out / "predictions.jsonl").resolve():
        raise UserError(f"the results would replace what is in {out}: give another --out")
    rows = read_predictions(path)
    about = made_by(path) | {"predictions": str(path)}
    if found is not None:
        about |= {"data": None, "data_fingerprint": None}  # what was given holds
    else:
        found = questions_of(rows, path)
        check_questions(task, found)
    _score(settings, task, found, match(rows, found, path), out, about)


def _score(
    settings: VQASettings,
    task: Task,
    found: QuestionSet,
    predictions: dict[str, str],
    out: Path,
    about: dict[str, Any],
    answers: dict[str, SavedAnswer] | None = None,
) -> None:
    """Judge, summarise, write and print."""
    counted_on, counted_name = _counted_on(found, settings.train_data)
    judged = judge_all(task, found.questions, predictions)
    scores = summarize(task, judged, counted_on)
    summary = {
        "task": task.name,
        "rule": scores.pop("rule"),
        **scores,
        "question_only_baseline_counted_on": counted_name,
        **describe(found),
        **{key: value for key, value in about.items() if value is not None or key == "seed"},
        "code": describe_environment()["git"],
    }
    make_folder(out)
    rows = prediction_rows(judged, answers)
    write_rows(out / "predictions.jsonl", rows)
    write_examples(judged, rows, out)
    write_json(out / "summary.json", summary)  # last: its presence says the rest is complete
    _print(summary)


def _counted_on(found: QuestionSet, train_data: Path | None) -> tuple[Counted | None, str]:
    """What the question-only baseline counts, and its name.

    Raises:
        UserError: if the data that the user named has no questions.
    """
    beside = Path(found.source).parent / "train"
    is_beside = found.data_fingerprint is not None and (beside / MANIFEST_NAME).is_file()
    folder = train_data or (beside if is_beside else None)
    if folder is not None:
        data = PreparedDataset(folder, images_only=True)
        counted = [(q.question, q.answers) for record in data.texts() for q in record.questions]
        if counted:
            return counted, str(folder)
        if train_data is not None:
            raise UserError(f"{folder} has no questions to count: name another --train-data")
    return None, ITSELF


def _print(summary: dict[str, Any]) -> None:
    low, high = summary["overall"]["interval"]
    baseline = f"the question alone gives {summary['question_only_baseline']:.1%}"
    if summary["question_only_baseline_counted_on"] == ITSELF:
        baseline += (
            f" at most (counted on these answers; {summary['repeated_question_share']:.0%} of the "
            "questions come repeatedly)"
        )
    unread = f"; {summary['num_unread']:,} answers unread" if summary["num_unread"] else ""
    print(
        f"{summary['overall']['accuracy']:.1%} of {summary['num_questions']:,} questions right "
        f"(95 % interval {low:.1%} to {high:.1%}){unread}; {baseline}"
    )
    figures = {k: value for k, value in summary["figures"].items() if isinstance(value, float)}
    if figures:
        print("; ".join(f"{k.replace('_', ' ')} {value:.4g}" for k, value in figures.items()))
