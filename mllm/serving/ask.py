"""Answer questions about images, one or a file of them: `semhitok ask`.

    semhitok ask --model DIR --image FILE --question "what color is the shape?"
    semhitok ask --model DIR --questions FILE.jsonl --out ANSWERS.jsonl

An answer is written greedily, or is the likeliest of given options. Answers go to the file as they
come; the same command resumes after those that are there.
"""

import itertools
import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from torch import Tensor

from data_pipelines.images import open_image
from mllm.model.chat_template import clean
from mllm.saved.fingerprint import model_fingerprint
from mllm.serving.answering import Answer, Answerer, Question, plan_batches
from mllm.serving.questions import Asked, asked_each, read_questions
from mllm.serving.settings import AskSettings
from runtime.errors import UserError
from runtime.json_lines import append_rows, cut_torn_line, whole_lines
from runtime.memory import memory_errors
from runtime.progress import Progress
from runtime.resume import file_lock


class Asking:
    """Answers `Asked` questions, `batch_size` of them, or of their options, in a pass."""

    def __init__(self, answerer: Answerer, batch_size: int = 16, max_new_tokens: int = 16):
        self.answerer, self.batch_size, self.max_new_tokens = answerer, batch_size, max_new_tokens

    def check(self, one: Asked) -> None:
        """Refuse a question that does not fit into the context with its images and answer."""
        tokenizer = self.answerer.processor.tokenizer
        answers = [len(tokenizer(o, add_special_tokens=False)["input_ids"]) for o in one.options]
        longest = max(answers) + 1 if answers else self.max_new_tokens
        self.answerer.check_length(len(self.answerer.prompt(one.messages)) + longest)

    def answers(self, asked: list[Asked]) -> Iterator[list[dict[str, Any]]]:
        """Batch by batch, a dict for each question: answer and, of options, log_likelihoods.

        Raises:
            UserError: if an image cannot be read, or a question is longer than the context.
        """
        questions = [self._question(one) for one in asked]
        batches = plan_batches([len(q.prompt) for q in questions], self.batch_size)
        for batch, answers in self.answerer.answer_list(
            questions, batches, self._read_images, self.max_new_tokens, self.batch_size
        ):
            yield [_found(asked[i], answer) for i, answer in zip(batch, answers, strict=True)]

    def _question(self, one: Asked) -> Question:
        # An option is a text whatever it spells; only the end of the turn behind it is a token.
        # Without the end, "red" could never be less likely than "red box".
        tokenizer = self.answerer.processor.tokenizer
        control = tuple(tokenizer.all_special_tokens)
        options = [clean(option, control) + tokenizer.eos_token for option in one.options]
        return Question(self.answerer.prompt(one.messages), one.images, tuple(options))

    def _read_images(self, paths: list[Path]) -> Sequence[Tensor]:
        return [self.answerer.image_tokens([open_image(path)])[0] for path in paths]

    def stream(self, one: Asked) -> None:
        """Write an answer to standard output word by word."""
        prompt, images = self.answerer.prompt(one.messages), self._read_images(list(one.images))
        self.answerer.stream(prompt, images, self.max_new_tokens)


def _found(one: Asked, answer: Answer) -> dict[str, Any]:
    if not one.options:
        return {"answer": answer.text}
    values = [likelihood.log_likelihood for likelihood in answer.likelihoods]
    scores = dict(zip(one.options, values, strict=True))
    return {"answer": max(scores, key=lambda option: scores[option]), "log_likelihoods": scores}


@memory_errors("lower --batch-size")
def ask(settings: AskSettings) -> Path | None:
    """Print the answers to questions about images, or write them to the file `settings.out`.

    Raises:
        UserError: if a question or an image cannot be read, before anything is answered, or the
            answers cannot be written.
    """
    with nullcontext() if settings.out is None else file_lock(settings.out):
        return _ask(settings)


def _ask(settings: AskSettings) -> Path | None:
    asked = _read(settings)
    for path in dict.fromkeys(path for one in asked for path in one.images):
        open_image(path)  # all are checked before the model loads
    answerer = Answerer.load(settings.model)
    asking = Asking(answerer, settings.batch_size, settings.max_new_tokens)
    for one in asked:
        try:
            asking.check(one)
        except UserError as error:
            name = "" if settings.questions is None else f"Question {one.name}: "
            raise UserError(f"{name}{error}") from error
    if settings.out is not None:
        return answer_file(asking, asked, settings.out, model_fingerprint(settings.model))
    if len(asked) == 1 and not asked[0].options and sys.stdout.isatty():
        asking.stream(asked[0])
        return None
    answers = itertools.chain.from_iterable(asking.answers(asked))
    for one, found in zip(asked, answers, strict=True):
        _print_answer(one, found, len(asked) > 1)
    return None


def _read(settings: AskSettings) -> list[Asked]:
    if settings.questions is None:
        return asked_each(settings.image, settings.question, settings.options, settings.together)
    asked = list(read_questions(settings.questions, settings.options))
    if not asked:
        raise UserError(f"{settings.questions} has no questions: write one object a line.")
    return asked


def answer_file(asking: Asking, asked: list[Asked], out: Path, fingerprint: str) -> Path:
    """Answer a list into a JSONL file, after the answers that are there already.

    Raises:
        UserError: if the file holds answers to other questions or of another model, or cannot be
            written; answers that were written stay.
    """
    done = _answered(out, asked, fingerprint)
    cut_torn_line(out)
    append_rows(out, ())  # a file that cannot be written is told of before the work
    with Progress(len(asked), "ask", unit="question", initial=done) as progress:
        rest = iter(asked[done:])
        for answers in asking.answers(asked[done:]):
            append_rows(
                out, [next(rest).record() | found | {"model": fingerprint} for found in answers]
            )
            progress.update(len(answers))
    return out


def _answered(out: Path, asked: list[Asked], fingerprint: str) -> int:
    """How many answers the file holds."""
    lines = whole_lines(out)
    for number, line in enumerate(lines):
        try:
            entry = json.loads(line)
            same = number < len(asked) and entry.items() >= asked[number].record().items()
            same = same and entry["model"] == fingerprint
            same = same and {*entry.get("log_likelihoods", ())} == {*asked[number].options}
        except (ValueError, AttributeError, KeyError):
            same = False
        if not same:
            raise UserError(
                f"line {number + 1} of {out} answers another question, chooses from other options, "
                f"or is of another model: choose another file."
            )
    return len(lines)


def _print_answer(one: Asked, found: dict[str, Any], several: bool) -> None:
    if several:
        print(json.dumps(one.record() | found, ensure_ascii=False), flush=True)
        return
    print(found["answer"])
    scores = found.get("log_likelihoods", {})
    best = max(scores.values(), default=0.0)
    total = sum(math.exp(score - best) for score in scores.values())
    for option, score in sorted(scores.items(), key=lambda item: -item[1]):
        print(f"  {math.exp(score - best) / total:6.1%}  {option}")
