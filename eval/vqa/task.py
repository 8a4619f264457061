r"""Visual questions: answers of a saved model, or of any other system, by the official rules.

Examples:
    semhitok eval vqa --model runs/quickstart/mllm/model \
        --data runs/quickstart/data/test --out runs/vqa
    torchrun --nproc_per_node 8 -m semhitok eval vqa --model DIR --task gqa \
        --data testdev_balanced_questions.json --images GQA/images --out runs/gqa
    semhitok eval vqa --predictions runs/gqa/predictions.jsonl --task gqa
"""

from argparse import Namespace
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.vqa.asking import Asking, default_asking
from eval.vqa.benchmarks.question_set import QuestionSet, check_questions, describe
from eval.vqa.examples import write_examples
from eval.vqa.predictions import json_text, made_by, match, prediction_rows, questions_of, read_rows
from eval.vqa.scorers.task import Task
from eval.vqa.scorers.tasks import find_task
from eval.vqa.scores import ITSELF, Counted, judge_all, summarize
from runtime.errors import UserError
from runtime.run_folder import (
    RunDirectory,
    describe_environment,
    make_folder,
    write_json,
    write_text,
)

if TYPE_CHECKING:
    from eval.vqa.answer_store import Answer


@dataclass(frozen=True)
class VqaSettings:
    """What an evaluation was run with; saved beside its results."""

    task: str
    """Name of the rule."""
    model: str | None
    """Folder of the unified model; None where answers are scored that are there already."""
    predictions: str | None
    """File of those answers."""
    data: str | None
    """Prepared folder, benchmark file, or data set on the hub."""
    images: str | None
    """Folder of the images that a file names."""
    split: str | None
    """Split of a data set on the hub."""
    circular: bool
    """Whether each question is asked once for every rotation of its options."""
    answer_by: str
    """`generation`, `letters` or `texts`."""
    instruction: str | None
    """Written after each question; None takes the task's."""
    max_new_tokens: int | None
    """Longest answer; None takes the task's."""
    batch_size: int
    """Questions answered at a time."""
    train_data: str | None = None
    """Data set that the question-only baseline counts; None as in `evaluate`."""


def evaluate(
    model_dir: Path | str,
    data_dir: Path | str,
    out_dir: Path | str,
    batch_size: int = 64,
    train_data_dir: Path | str | None = None,
) -> dict[str, Any]:
    """Answer every question of a prepared data set by the rule of easy-VQA.

    See `evaluate_model`, which takes every task.

    Args:
        model_dir: a saved unified model.
        data_dir: a prepared data set with questions.
        out_dir: where the results go; made if missing.
        batch_size: questions answered at a time.
        train_data_dir: the data set whose answers the question-only baseline counts. None takes the
            folder `train` beside `data_dir`, and where there is none the evaluated set itself.

    Returns:
        What `summary.json` holds.

    Raises:
        UserError: if the data set has no questions, or a path holds no model or data set.
    """
    from eval.vqa.benchmarks.prepared import read_prepared

    task = find_task("easy-vqa")
    found = read_prepared(Path(data_dir))
    check_questions(task, found)
    return evaluate_model(
        task, found, model_dir, Path(out_dir), default_asking(task), batch_size, train_data_dir
    )


def evaluate_model(
    task: Task,
    found: QuestionSet,
    model_dir: Path | str,
    out_dir: Path,
    asking: Asking,
    batch_size: int = 64,
    train_data_dir: Path | str | None = None,
) -> dict[str, Any]:
    """Answer a benchmark's questions, score the answers and save both.

    Every rank of a launch calls this and answers its share; a killed run goes on where it was.
    Writes `summary.json`, `predictions.jsonl` (each question with its answer and score),
    `examples.jsonl` with `images/` (the questions that a report shows), and `answers/`.

    Returns:
        What `summary.json` holds.

    Raises:
        UserError: if the folder has answers of another evaluation, or a model or image is damaged.
    """
    from eval.vqa import answering
    from mllm.saved.fingerprint import model_fingerprint
    from runtime.rank_group import RankGroup

    def finish(answers: "dict[str, Answer]") -> dict[str, Any]:
        predictions = {key: answer.prediction for key, answer in answers.items()}
        about = answering.describe_run(model_dir, asking, batch_size, ranks, fingerprint)
        return _score(task, found, predictions, out_dir, about, train_data_dir, answers)

    with RankGroup() as ranks:
        # Once: it reads all of the weights.
        fingerprint = ranks.from_main(lambda: model_fingerprint(model_dir))
        answers = answering.answer_questions(
            model_dir, found, asking, out_dir, batch_size, ranks, fingerprint
        )
        summary = ranks.from_main(lambda: finish(answers))
    return summary


def rescore(
    task: Task,
    path: Path,
    out_dir: Path,
    found: QuestionSet | None = None,
    train_data_dir: Path | str | None = None,
) -> dict[str, Any]:
    """Score predictions that are there already; no model is loaded.

    Args:
        task: whose rule to apply.
        path: `predictions.jsonl` of an evaluation, its folder, or answers of another system.
        out_dir: where the results go.
        found: the questions; None takes those saved with the predictions.
        train_data_dir: as in `evaluate`.

    Raises:
        UserError: if predictions and questions do not match one to one, the rule does not fit, or
            the results would replace those that the predictions are of.
    """
    saved = path / "predictions.jsonl" if path.is_dir() else path
    if saved.resolve() == (out_dir / "predictions.jsonl").resolve():
        raise UserError(f"the results would replace what is in {out_dir}: give another --out")
    rows = read_rows(path)
    about = made_by(path) | {"predictions": str(path)}
    if found is not None:
        about |= {"data": None, "data_fingerprint": None}  # what was given holds
    else:
        found = questions_of(rows, path)
        check_questions(task, found)
    predictions = match(rows, found, path)
    return _score(task, found, predictions, out_dir, about, train_data_dir)


def _score(
    task: Task,
    found: QuestionSet,
    predictions: dict[str, str],
    out_dir: Path,
    about: dict[str, Any],
    train_data_dir: Path | str | None = None,
    answers: "dict[str, Answer] | None" = None,
) -> dict[str, Any]:
    """Judge, summarise and write."""
    counted_on, counted_name = _counted_on(found, train_data_dir)
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
    make_folder(out_dir)
    rows = prediction_rows(judged, answers)
    write_text(out_dir / "predictions.jsonl", json_text(rows))
    write_examples(judged, rows, out_dir)
    write_json(out_dir / "summary.json", summary)  # last: its presence says the rest is complete
    return summary


def _counted_on(
    found: QuestionSet, train_data_dir: Path | str | None
) -> tuple[Counted | None, str]:
    """What the question-only baseline counts, and its name."""
    from data_pipelines.loading.dataset import PreparedDataset

    beside = Path(found.source).parent / "train"
    if train_data_dir is None and found.data_fingerprint and beside.is_dir():
        train_data_dir = beside
    if train_data_dir is None:
        return None, ITSELF
    data = PreparedDataset(train_data_dir, images_only=True)
    counted = [(q.question, q.answers) for record in data.texts() for q in record.questions]
    return counted, str(train_data_dir)


def command(args: Namespace) -> Path:
    """Run `semhitok eval vqa`; returns the folder that was written."""
    from eval.vqa.benchmarks.load import open_benchmark
    from eval.vqa.report import report_questions
    from runtime.ranks import is_main_rank

    task, data = _task_of(args)
    images = args.images and Path(args.images)
    asking = _asking(task, args)
    out = _out(args, task)
    found = None
    if args.model or data:
        # Without a model pictures are for the report alone.
        needs_images = args.model is not None or images is not None
        found = open_benchmark(task, data, images, args.split, needs_images)
        found = _rotated(found) if args.circular else found
    elif args.circular:
        raise UserError("--circular asks a model: give --model and --data")
    settings = _settings(task, args, data)
    if args.model:
        assert found is not None
        RunDirectory(out).start(settings, "semhitok eval vqa")
        summary = evaluate_model(
            task, found, args.model, out, asking, args.batch_size, args.train_data
        )
    else:
        summary = rescore(task, Path(args.predictions), out, found, args.train_data)
        RunDirectory(out).start(settings, "semhitok eval vqa")  # of what is refused nothing is left
    if is_main_rank():
        _print(summary)
        report_questions(out)
    return out


def _task_of(args: Namespace) -> tuple[Task, str | None]:
    """The task and the data; `--task` may also name a file of one's own questions."""
    data = args.data
    name = args.task
    if name.endswith(".jsonl") or Path(name).is_file():
        if data is not None:
            raise UserError(f"--task names the file {name}, so --data cannot name another")
        if not Path(name).is_file():
            raise UserError(f"no such file: {name}")
        return find_task(args.scoring or _scoring_of(Path(name))), name
    if args.scoring:
        raise UserError("--scoring is for files of one's own questions, named with --task")
    return find_task(name), data


def _scoring_of(path: Path) -> str:
    from eval.vqa.benchmarks.own_lines import read_own_lines

    questions = read_own_lines(path).questions
    return "option" if questions and all(q.options for q in questions) else "exact"


def _asking(task: Task, args: Namespace) -> Asking:
    asking = default_asking(task, args.answer_by)
    given = {"instruction": args.instruction, "max_new_tokens": args.max_new_tokens}
    return replace(asking, **{name: value for name, value in given.items() if value is not None})


def _rotated(found: QuestionSet) -> QuestionSet:
    from eval.vqa.scorers.multiple_choice import rotations

    if not all(q.options for q in found.questions):
        raise UserError(f"--circular rotates options, and {found.source} has questions without")
    turned = [other for q in found.questions for other in rotations(q)]
    return replace(found, questions=turned)


def _out(args: Namespace, task: Task) -> Path:
    if args.out is not None:
        return Path(args.out)
    if args.model:
        raise UserError("the answers of a model need --out, the folder to write")
    path = Path(args.predictions)
    folder = path if path.is_dir() else path.parent
    return folder / f"scored-{task.name}"


def _settings(task: Task, args: Namespace, data: str | None) -> VqaSettings:
    def text(value: Any) -> str | None:
        return None if value is None else str(value)

    return VqaSettings(
        task=task.name,
        model=text(args.model),
        predictions=text(args.predictions),
        data=data,
        images=text(args.images),
        split=args.split,
        circular=args.circular,
        answer_by=args.answer_by,
        instruction=args.instruction,
        max_new_tokens=args.max_new_tokens,
        batch_size=args.batch_size,
        train_data=text(args.train_data),
    )


def _print(summary: dict[str, Any]) -> None:
    low, high = summary["overall"]["interval"]
    print(
        f"{summary['overall']['accuracy']:.1%} of {summary['num_questions']:,} questions right "
        f"(95 % interval {low:.1%} to {high:.1%}); "
        f"the question alone gives {summary['question_only_baseline']:.1%}{_peeks(summary)}"
    )
    own = [
        f"{name.replace('_', ' ')} {value:.4g}"
        for name, value in summary["figures"].items()
        if isinstance(value, float)
    ]
    if own:
        print("; ".join(own))


def _peeks(summary: dict[str, Any]) -> str:
    """What is to be said of a baseline that counts the very answers that it is to give."""
    if summary["question_only_baseline_counted_on"] != ITSELF:
        return ""
    repeated = summary["repeated_question_share"]
    return f" at most (counted on these answers; {repeated:.0%} of the questions come repeatedly)"
