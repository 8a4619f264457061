"""Has a model answer the questions of a benchmark: in batches, over ranks, resumable.

What shares a batch depends on the questions and the batch size alone, never on the number of ranks
or on where a run was killed; so neither changes a digit of what the model computes.

A rank appends its answers to a file of its own, a batch at a time. A line cut off by a kill is
ignored, and cut away before its rank appends again; its question is then asked anew.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from data_pipelines.images import open_image
from eval.vqa.asking import Asking, candidates, message
from eval.vqa.benchmarks.question_set import QuestionSet
from eval.vqa.scorers.multiple_choice import LETTERS
from eval.vqa.scorers.task import BenchmarkQuestion, image_data
from mllm.serving.answering import Answer, Answerer, Question, plan_batches
from runtime.errors import UserError
from runtime.files import read_json, write_json
from runtime.json_lines import append_rows, cut_torn_line, whole_lines
from runtime.progress import Progress
from runtime.rank_group import RankGroup
from runtime.run_folder import make_folder

WINDOW = 16
"""Batches among whose questions those of like length are put together: little padding is computed,
and the questions about one image, which follow each other, stay near."""


@dataclass(frozen=True)
class SavedAnswer:
    """What the model said to one question."""

    prediction: str
    """Its text, or the letter of the likeliest option."""
    option_scores: tuple[float, ...] | None = None
    """Mean log-likelihood a token of each option, where there was a choice."""


class AnswerStore:
    """The answers in the folder of an evaluation."""

    def __init__(self, out_dir: Path):
        self.out_dir = out_dir
        self.folder = out_dir / "answers"

    def open(self, identity: dict[str, Any]) -> None:
        """Make the folder, or resume answers of the same model, questions and settings.

        Raises:
            UserError: if it holds answers of another evaluation.
        """
        mark = self.folder / "evaluation.json"
        if not mark.is_file():
            make_folder(self.folder)
            write_json(mark, identity)
            return
        before = read_json(mark)
        if other := [key for key in identity if before.get(key) != identity[key]]:
            raise UserError(
                f"{self.out_dir} holds answers of another evaluation ({', '.join(other)} differ"
                f"{'s' if len(other) == 1 else ''}); give another --out, or delete {self.folder}"
            )

    def read(self) -> dict[str, SavedAnswer]:
        """All answers so far, of every rank, by question id.

        Raises:
            UserError: if a question was answered twice, or a line in the middle is damaged.
        """
        answers: dict[str, SavedAnswer] = {}
        for path in sorted(self.folder.glob("rank-*.jsonl")):
            for number, line in enumerate(whole_lines(path), start=1):
                try:
                    row = json.loads(line)
                    key, scores = row["question_id"], row.get("option_scores")
                    answer = SavedAnswer(row["prediction"], scores and tuple(scores))
                except (ValueError, KeyError, TypeError) as error:
                    raise UserError(
                        f"line {number} of {path} is damaged; delete {path} to have its questions "
                        "asked again"
                    ) from error
                if key in answers:
                    raise UserError(
                        f"question {key!r} is answered twice in {self.folder}; delete that folder "
                        "and evaluate again"
                    )
                answers[key] = answer
        return answers

    def append(self, rank: int, answers: dict[str, SavedAnswer]) -> None:
        """Add a batch to the file of a rank; it is on the disk when this returns."""
        rows = (
            {"question_id": key, "prediction": answer.prediction}
            | ({"option_scores": answer.option_scores} if answer.option_scores else {})
            for key, answer in answers.items()
        )
        append_rows(self._file(rank), rows)

    def cut_torn_line(self, rank: int) -> None:
        """Cut away what a killed run of this rank left of a line."""
        cut_torn_line(self._file(rank))

    def _file(self, rank: int) -> Path:
        return self.folder / f"rank-{rank:05d}.jsonl"


def open_answers(
    found: QuestionSet,
    asking: Asking,
    out_dir: Path,
    batch_size: int,
    ranks: RankGroup,
    fingerprint: str,
) -> None:
    """Make the folder of the answers, or resume it; every rank calls this.

    Raises:
        UserError: if it has answers of another evaluation.
    """
    identity = {
        "checkpoint_fingerprint": fingerprint,
        "questions_fingerprint": found.fingerprint,
        "data_fingerprint": found.data_fingerprint,
        "asking": asking.describe(),
        "instruction": asking.instruction,
        "batch_size": batch_size,
    }
    ranks.from_main(lambda: AnswerStore(out_dir).open(identity))


def answer_questions(
    model_dir: Path,
    found: QuestionSet,
    asking: Asking,
    out_dir: Path,
    batch_size: int,
    ranks: RankGroup,
) -> dict[str, SavedAnswer]:
    """Answer every checked question that has no answer yet in the open folder; every rank calls
    this, and gets the answers of all by question id.

    Raises:
        UserError: if the model or an image cannot be read, or an answer is damaged.
    """
    store = AnswerStore(out_dir)
    done = ranks.from_main(store.read)
    ranks.gather(None)  # nobody appends before everybody knows the same answers
    if len(done) < len(found.questions):
        _answer_rest(model_dir, found.questions, asking, store, batch_size, ranks, done)
        ranks.gather(None)
        done = ranks.from_main(store.read)
    unknown = set(done) - {q.question_id for q in found.questions}
    if unknown or len(done) != len(found.questions):
        raise UserError(
            f"{store.folder} has {len(done):,} answers to {len(found.questions):,} questions; "
            "delete that folder and evaluate again"
        )
    return done


def _answer_rest(
    model_dir: Path,
    questions: Sequence[BenchmarkQuestion],
    asking: Asking,
    store: AnswerStore,
    batch_size: int,
    ranks: RankGroup,
    done: dict[str, SavedAnswer],
) -> None:
    """Answer this rank's part of the questions that are not done."""
    if asking.answer_by != "generation" and not all(q.options for q in questions):
        raise UserError(f"answers by {asking.answer_by} need questions with options")
    answerer = Answerer.load(model_dir)
    # Benchmarks repeat their questions, and a chat template is slow: each text is rendered once.
    render = cache(lambda text: answerer.prompt([{"role": "user", "content": text}]))
    asked = [
        Question(
            render(message(q, asking)),
            tuple((q.image_id, number) for number in range(len(q.images))),
            candidates(q, asking),
        )
        for q in questions
    ]
    _check_lengths(answerer, questions, asked, asking)
    by_image = {q.image_id: q for q in reversed(questions)}

    def read_images(keys: list[tuple[str, int]]) -> Sequence[Tensor]:
        opened = []
        for image_id, number in keys:
            q = by_image[image_id]
            name = f"the image {image_id} of question {q.question_id}"
            opened.append(open_image(image_data(q.images[number]), name=name))
        return list(answerer.image_tokens(opened))

    store.cut_torn_line(ranks.rank)
    batches = plan_batches([len(question.prompt) for question in asked], batch_size, WINDOW)
    own = [batches[i] for i in part_of_rank(len(batches), ranks.rank, ranks.world_size)]
    # A batch that is answered in part is asked whole: alone the rest would be padded less.
    todo = [batch for batch in own if any(questions[i].question_id not in done for i in batch)]
    total = sum(map(len, own))
    answered = sum(questions[i].question_id in done for batch in own for i in batch)
    with Progress(total, "answer", "question", initial=answered) as progress:
        for batch, answers in answerer.answer_list(
            asked, todo, read_images, asking.max_new_tokens, batch_size
        ):
            saved = {
                questions[i].question_id: _saved(answer)
                for i, answer in zip(batch, answers, strict=True)
            }
            new = {key: answer for key, answer in saved.items() if key not in done}
            store.append(ranks.rank, new)
            progress.update(len(new))


def _check_lengths(
    answerer: Answerer,
    questions: Sequence[BenchmarkQuestion],
    asked: Sequence[Question],
    asking: Asking,
) -> None:
    """Refuse, before the first answer, questions that do not fit the context with their answers."""
    tokenizer = answerer.processor.tokenizer
    options = {option for question in asked for option in question.options}
    lengths = {o: len(tokenizer(o, add_special_tokens=False)["input_ids"]) for o in options}
    too_long = [
        q.question_id
        for q, question in zip(questions, asked, strict=True)
        if len(question.prompt)
        + max((lengths[o] for o in question.options), default=asking.max_new_tokens)
        > answerer.context_length
    ]
    if too_long:
        raise UserError(
            f"{len(too_long):,} of {len(questions):,} questions with their images and answers are "
            f"longer than the {answerer.context_length:,} tokens that the model reads, such as "
            f"question {too_long[0]!r}: leave them out, or give fewer --max-new-tokens"
        )


def _saved(answer: Answer) -> SavedAnswer:
    if not answer.likelihoods:
        return SavedAnswer(answer.text)
    scores = tuple(each.log_likelihood / each.num_tokens for each in answer.likelihoods)
    return SavedAnswer(LETTERS[scores.index(max(scores))], scores)


def part_of_rank(number: int, rank: int, world_size: int) -> range:
    """The rank's run of the batches, in one piece: few images are encoded by two ranks."""
    return range(number * rank // world_size, number * (rank + 1) // world_size)


def describe_run(
    model_dir: Path, asking: Asking, batch_size: int, ranks: RankGroup, fingerprint: str
) -> dict[str, Any]:
    """What a summary says of the model and the questioning."""
    config = model_dir / "config.json"
    known = read_json(config).get("image_tokenizer_config") if config.is_file() else None
    return {
        "model": str(model_dir),
        "checkpoint_fingerprint": fingerprint,
        "decoding": asking.describe(),
        "instruction": asking.instruction,
        "seed": None,  # greedy decoding and likelihoods draw nothing
        "batch_size": batch_size,
        "num_ranks": ranks.world_size,
        "image_crop": "shorter side scaled, centre cut",
        # Pixels of a side that the model sees; models of other sizes are compared all the same.
        "image_resolution": known.get("image_size") if isinstance(known, dict) else None,
    }
