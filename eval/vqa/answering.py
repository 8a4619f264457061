"""Has a model answer the questions of a benchmark: in batches, over ranks, resumable.

What shares a batch depends on the questions and the batch size alone, never on the number of ranks
or on where a run was killed; so neither changes a digit of what the model computes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.vqa.answer_store import Answer, AnswerStore
from eval.vqa.asking import Asking, candidates, message
from eval.vqa.benchmarks.question_set import QuestionSet
from eval.vqa.scorers.multiple_choice import LETTERS
from eval.vqa.scorers.task import BenchmarkQuestion
from runtime.errors import UserError
from runtime.files import read_json
from runtime.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from mllm.serving.answering import Answerer
    from runtime.rank_group import RankGroup

WINDOW = 16
"""Batches among whose questions those of like length are put together: little padding is computed,
and the questions about one image, which follow each other, stay near."""


def answer_questions(
    model_dir: Path | str,
    found: QuestionSet,
    asking: Asking,
    out_dir: Path,
    batch_size: int,
    ranks: "RankGroup",
    fingerprint: str,
) -> dict[str, Answer]:
    """Answer every question that has no answer yet in the folder.

    Args:
        model_dir: a saved unified model.
        found: checked questions with images.
        asking: how to ask.
        out_dir: where answers are kept.
        batch_size: questions at a time on each rank.
        ranks: who shares the work; every rank calls this.
        fingerprint: of the model.

    Returns:
        The answers of all ranks by question id, on every rank.

    Raises:
        UserError: if the folder has answers of another evaluation, or the model or an image cannot
            be read.
    """
    store = AnswerStore(out_dir)
    identity = {
        "checkpoint_fingerprint": fingerprint,
        "questions_fingerprint": found.fingerprint,
        "data_fingerprint": found.data_fingerprint,
        "asking": asking.describe(),
        "instruction": asking.instruction,
        "batch_size": batch_size,
    }
    ranks.from_main(lambda: store.open(identity))
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
    model_dir: Path | str,
    questions: Sequence[BenchmarkQuestion],
    asking: Asking,
    store: AnswerStore,
    batch_size: int,
    ranks: "RankGroup",
    done: dict[str, Answer],
) -> None:
    """Answer this rank's share of the questions that are not done."""
    from mllm.serving.answering import Answerer

    if asking.answer_by != "generation" and not all(q.options for q in questions):
        raise UserError(f"answers by {asking.answer_by} need questions with options")
    answerer = Answerer.load(model_dir)
    texts = [message(q, asking) for q in questions]
    # Benchmarks repeat their questions, and a chat template is slow: each text is rendered once.
    rendered = {
        text: answerer.prompt([{"role": "user", "content": text}]) for text in dict.fromkeys(texts)
    }
    prompts = [rendered[text] for text in texts]
    store.cut_torn_line(ranks.rank)
    batches = plan_batches([len(prompt) for prompt in prompts], batch_size)
    own = share(len(batches), ranks.rank, ranks.world_size)
    total = sum(len(batches[i]) for i in own)
    answered = sum(questions[place].question_id in done for i in own for place in batches[i])
    pictures: dict[str, list[Tensor]] = {}
    with Progress(total, "answer", "question", initial=answered) as progress:
        for index in own:
            batch = batches[index]
            new = [place for place in batch if questions[place].question_id not in done]
            if not new:
                continue
            # The whole batch, also what is answered already: alone the rest would be padded less.
            asked = [questions[place] for place in batch]
            _look_at(answerer, asked, pictures)
            answers = _answer_batch(
                answerer,
                asked,
                [prompts[place] for place in batch],
                [pictures[q.image_id] for q in asked],
                asking,
            )
            chosen = {q.question_id: a for q, a in zip(asked, answers, strict=True)}
            store.append(ranks.rank, {k: v for k, v in chosen.items() if k not in done})
            progress.update(len(new))


def _answer_batch(
    answerer: "Answerer",
    asked: Sequence[BenchmarkQuestion],
    prompts: Sequence[list[int]],
    images: "Sequence[list[Tensor]]",
    asking: Asking,
) -> list[Answer]:
    if asking.answer_by == "generation":
        texts = answerer.answer(prompts, images, asking.max_new_tokens)
        return [Answer(text) for text in texts]
    options = [candidates(question, asking) for question in asked]
    flat = [(row, text) for row, texts in enumerate(options) for text in texts]
    weighed = answerer.loglikelihood(
        [prompts[row] for row, _ in flat],
        [images[row] for row, _ in flat],
        [text for _, text in flat],
    )
    answers, start = [], 0
    for texts in options:
        own = weighed[start : start + len(texts)]
        start += len(texts)
        scores = [w.log_likelihood / w.num_tokens for w in own]
        answers.append(Answer(LETTERS[scores.index(max(scores))], tuple(scores)))
    return answers


def _look_at(
    answerer: "Answerer", asked: Sequence[BenchmarkQuestion], pictures: "dict[str, list[Tensor]]"
) -> None:
    """Encode the images of a batch that were not seen before: N token ids each are kept."""
    from data_pipelines.images import open_image

    new = {q.image_id: q for q in asked if q.image_id not in pictures}
    opened = [
        open_image(
            source if isinstance(source, Path | bytes) else source(),
            name=f"the image {key} of question {q.question_id}",
        )
        for key, q in new.items()
        for source in q.images
    ]
    if not opened:
        return
    tokens = iter(answerer.image_tokens(opened))
    for key, q in new.items():
        pictures[key] = [next(tokens) for _ in q.images]


def plan_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Places of the questions by batch, those of like length together within a window.

    Args:
        lengths: of the prompts, in the order of the questions.
        batch_size: questions in a batch; the last one of a window may have fewer.
    """
    window = WINDOW * batch_size
    batches = []
    for start in range(0, len(lengths), window):
        places = sorted(
            range(start, min(start + window, len(lengths))), key=lambda place: lengths[place]
        )
        batches += [places[i : i + batch_size] for i in range(0, len(places), batch_size)]
    return batches


def share(number: int, rank: int, world_size: int) -> range:
    """The rank's run of the batches, in one piece: few images are encoded by two ranks."""
    return range(number * rank // world_size, number * (rank + 1) // world_size)


def describe_run(
    model_dir: Path | str, asking: Asking, batch_size: int, ranks: "RankGroup", fingerprint: str
) -> dict[str, Any]:
    """What a summary says of the model and the questioning."""
    return {
        "model": str(model_dir),
        "checkpoint_fingerprint": fingerprint,
        "decoding": asking.describe(),
        "instruction": asking.instruction,
        "seed": None,  # greedy decoding and likelihoods draw nothing
        "batch_size": batch_size,
        "num_ranks": ranks.world_size,
        "image_crop": "shorter side scaled, centre cut",
        "image_resolution": _image_resolution(Path(model_dir)),
    }


def _image_resolution(model_dir: Path) -> int | None:
    """Pixels of a side that the model sees; models of other sizes are compared all the same."""
    config = model_dir / "config.json"
    known = read_json(config).get("image_tokenizer_config") if config.is_file() else None
    return known.get("image_size") if isinstance(known, dict) else None
