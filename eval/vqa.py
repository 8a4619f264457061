r"""Visual question answering of a saved model on a prepared data set.

Example:
    semhitok eval vqa --model runs/quickstart/mllm/model \
        --data runs/quickstart/data/test --out runs/vqa
"""

import json
import random
from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from eval.vqa_scoring import (
    RULE,
    Row,
    always_yes_accuracy,
    is_correct,
    is_yes_no,
    question_only_accuracy,
    question_type,
    score,
)

NUM_WRONG_SHOWN = 16
NUM_RIGHT_SHOWN = 8


@dataclass(frozen=True)
class VqaSettings:
    """What an evaluation was run with; saved beside its results."""

    model: str
    """Folder of the unified model."""
    data: str
    """Folder of the prepared data set."""
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
    """Answer every question of a data set, score the answers and save both.

    Writes `summary.json`, `predictions.jsonl` (each question with its answer, whether it is right
    and its type), and `examples.jsonl` with `images/`, the questions that a report shows.

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
    from data_pipelines.dataset import PreparedDataset
    from mllm.ask import answer_records
    from semhitok.errors import UserError
    from semhitok.progress import Progress
    from semhitok.run import make_folder, write_json, write_text

    data_dir, out_dir = Path(data_dir), Path(out_dir)
    dataset = PreparedDataset(data_dir, images_only=True)
    num_questions = sum(len(dataset[i].questions) for i in range(len(dataset)))
    if not num_questions:
        raise UserError(f"{data_dir} has no questions, so there is nothing to answer.")

    with Progress(num_questions, "answer", "question") as progress:
        rows = answer_records(model_dir, dataset, batch_size, progress=progress)
    judged = [
        {
            **row,
            "correct": is_correct(row),
            "type": question_type(row["question"], row["answers"]),
        }
        for row in rows
    ]

    if train_data_dir is None and (data_dir.parent / "train").is_dir():
        train_data_dir = data_dir.parent / "train"
    counted_on = (
        None
        if train_data_dir is None
        else _questions(PreparedDataset(train_data_dir, images_only=True))
    )
    open_rows = [row for row in rows if not is_yes_no(row["answers"])]
    summary = {
        "task": "vqa",
        "rule": RULE,
        "num_images": len(dataset),
        "num_questions": len(rows),
        **score(rows),
        "question_only_baseline": question_only_accuracy(rows, counted_on),
        "open_question_only_baseline": (
            question_only_accuracy(open_rows, counted_on) if open_rows else None
        ),
        "question_only_baseline_counted_on": str(
            train_data_dir or "the evaluated questions themselves"
        ),
        "always_yes_baseline": always_yes_accuracy(rows),
        "model": str(model_dir),
        "data": str(data_dir),
        "data_fingerprint": dataset.fingerprint,
        "batch_size": batch_size,
        "decoding": "greedy",
    }

    make_folder(out_dir)
    write_text(out_dir / "predictions.jsonl", _json_lines(judged))
    _write_examples(judged, dataset, out_dir)
    write_json(out_dir / "summary.json", summary)  # last: its presence says the rest is complete
    return summary


def command(args: Namespace) -> Path:
    """Run `semhitok eval vqa`; returns the folder that was written."""
    from semhitok.run import RunDirectory

    train_data = getattr(args, "train_data", None)
    settings = VqaSettings(
        model=str(args.model),
        data=str(args.data),
        batch_size=args.batch_size,
        train_data=None if train_data is None else str(train_data),
    )
    RunDirectory(args.out).start(settings, "semhitok eval vqa")
    summary = evaluate(
        settings.model, settings.data, args.out, settings.batch_size, settings.train_data
    )
    low, high = summary["overall"]["interval"]
    print(
        f"{summary['overall']['accuracy']:.1%} of {summary['num_questions']:,} questions right "
        f"(95 % interval {low:.1%} to {high:.1%}); "
        f"the question alone gives {summary['question_only_baseline']:.1%}"
    )
    return Path(args.out)


def pick_examples(judged: Sequence[Row], limit: int, seed: int = 0) -> list[Row]:
    """At most `limit` rows, drawn at random with the question types taking turns.

    Without the turns the questions that a report shows would nearly all be of the commonest type.
    """
    by_type: dict[str, list[Row]] = defaultdict(list)
    for row in judged:
        by_type[row["type"]].append(row)
    shuffler = random.Random(seed)
    for group in by_type.values():
        shuffler.shuffle(group)
    turns = zip_longest(*(by_type[name] for name in sorted(by_type)))
    return [row for row in chain.from_iterable(turns) if row is not None][:limit]


def _questions(dataset: Any) -> list[tuple[str, Sequence[str]]]:
    return [(q.question, q.answers) for i in range(len(dataset)) for q in dataset[i].questions]


def _write_examples(judged: Sequence[Row], dataset: Any, out_dir: Path) -> None:
    """Save wrong and right answers with their images, so that a report needs no data set."""
    from data_pipelines.images import open_image
    from semhitok.run import write_text

    wrong = pick_examples([row for row in judged if not row["correct"]], NUM_WRONG_SHOWN)
    right = pick_examples([row for row in judged if row["correct"]], NUM_RIGHT_SHOWN)
    shown: dict[str, list[Row]] = defaultdict(list)
    for row in wrong + right:
        shown[row["record_id"]].append(row)

    (out_dir / "images").mkdir(exist_ok=True)
    image_paths: dict[str, str] = {}
    for i in range(len(dataset)):
        record = dataset[i]
        if record.record_id in shown and record.image is not None:
            # Numbered, not named by record id: an id may hold characters that no file name may.
            image_paths[record.record_id] = f"images/{len(image_paths):03d}.png"
            picture = open_image(record.image, name=f"the image of record {record.record_id}")
            picture.save(out_dir / image_paths[record.record_id])
    examples = [{**row, "image": image_paths[row["record_id"]]} for row in wrong + right]
    write_text(out_dir / "examples.jsonl", _json_lines(examples))


def _json_lines(rows: Iterable[Row]) -> str:
    return "".join(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in rows)
