"""Answer questions about images, one or a file of them: `semhitok ask`.

    semhitok ask --model DIR --image FILE --question "what color is the shape?"
    semhitok ask --model DIR --questions FILE.jsonl --out ANSWERS.jsonl

An answer is written greedily, or is the likeliest of given options. Answers go to the file as they
come; the same command goes on after those that are there.
"""

import argparse
import itertools
import json
import math
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import TextStreamer

from data_pipelines.images import open_image
from mllm.model.chat_template import clean
from mllm.saved.fingerprint import model_fingerprint
from mllm.serving.answering import Answerer
from mllm.serving.questions import Asked, asked_each, read_questions
from runtime.errors import UserError
from runtime.json_lines import append_rows, cut_torn_line, whole_lines
from runtime.progress import Progress

REMEMBERED_IMAGES = 4096  # token ids of that many: questions about one image often come together


class Asking:
    """Answers `Asked` questions.

    Args:
        answerer: the model.
        batch_size: questions, or options, in a pass.
        max_new_tokens: longest written answer.
    """

    def __init__(self, answerer: Answerer, batch_size: int = 16, max_new_tokens: int = 16):
        self.answerer, self.batch_size, self.max_new_tokens = answerer, batch_size, max_new_tokens
        self._tokens = lru_cache(REMEMBERED_IMAGES)(self._read_image)

    def _read_image(self, path: Path) -> Tensor:
        return self.answerer.image_tokens([open_image(path)])[0]

    def check(self, one: Asked) -> None:
        """Refuse a question that is longer than the context with its images and answer.

        Raises:
            UserError: then.
        """
        tokenizer = self.answerer.processor.tokenizer
        answers = [len(tokenizer(o, add_special_tokens=False)["input_ids"]) for o in one.options]
        longest = max(answers) + 1 if answers else self.max_new_tokens
        self.answerer.check_length(len(self.answerer.prompt(one.messages)) + longest)

    def answers(self, asked: list[Asked]) -> list[dict[str, Any]]:
        """One dict for each question: answer and, where there were options, log_likelihoods.

        Raises:
            UserError: if an image cannot be read, or a question is longer than the context.
        """
        found: dict[int, dict[str, Any]] = {}
        written = [number for number, one in enumerate(asked) if not one.options]
        for start in range(0, len(written), self.batch_size):
            part = written[start : start + self.batch_size]
            texts = self.answerer.answer(
                *self._inputs([asked[n] for n in part]), self.max_new_tokens
            )
            found |= {n: {"answer": text} for n, text in zip(part, texts, strict=True)}
        pairs = [(n, option) for n, one in enumerate(asked) for option in one.options]
        scores: dict[int, dict[str, float]] = {}
        for start in range(0, len(pairs), self.batch_size):
            chosen = pairs[start : start + self.batch_size]
            for (n, option), value in zip(chosen, self._weigh(asked, chosen), strict=True):
                scores.setdefault(n, {})[option] = value
        for n, of_options in scores.items():
            best = max(of_options, key=lambda option: of_options[option])
            found[n] = {"answer": best, "log_likelihoods": of_options}
        return [found[n] for n in range(len(asked))]

    def _weigh(self, asked: list[Asked], pairs: list[tuple[int, str]]) -> list[float]:
        """Log-likelihood of each option as the whole answer, the end of the turn included.

        Without the end, "red" could never be less likely than "red box".
        """
        tokenizer = self.answerer.processor.tokenizer
        # What an option spells is a text; only the end that is put behind it is a token.
        control = tuple(tokenizer.all_special_tokens)
        texts = [clean(option, control) + tokenizer.eos_token for _, option in pairs]
        weighed = self.answerer.weigh(*self._inputs([asked[n] for n, _ in pairs]), texts)
        return [one.log_likelihood for one in weighed]

    def _inputs(self, asked: list[Asked]) -> tuple[list[list[int]], list[list[Tensor]]]:
        prompts = [self.answerer.prompt(one.messages) for one in asked]
        return prompts, [[self._tokens(path) for path in one.images] for one in asked]

    def stream(self, asked: Asked) -> None:
        """Write an answer to standard output word by word."""
        streamer = TextStreamer(
            self.answerer.processor.tokenizer, skip_prompt=True, skip_special_tokens=True
        )
        self.answerer.answer(*self._inputs([asked]), self.max_new_tokens, streamer)


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
        for part in _batches(asked[done:], asking.batch_size):
            answers = zip(part, asking.answers(part), strict=True)
            append_rows(
                out, [one.record() | said | {"model": fingerprint} for one, said in answers]
            )
            progress.update(len(part))
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


def _batches(asked: list[Asked], size: int) -> Iterator[list[Asked]]:
    rest = iter(asked)
    while part := list(itertools.islice(rest, size)):
        yield part


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


def command(args: argparse.Namespace) -> Path | None:
    """`semhitok ask`: prints the answers, or writes them to --out."""
    if args.questions is not None:
        if args.images:
            raise UserError("--questions names its own images: leave --image away.")
        asked = list(read_questions(Path(args.questions), args.options))
    else:
        if not args.images or not args.question:
            raise UserError("Nothing to answer: give --image and --question, or --questions FILE.")
        images = [Path(path) for path in args.images]
        asked = list(asked_each(images, args.question, args.options, args.together))
    if not asked:
        raise UserError(f"{args.questions} has no questions: write one object a line.")
    if len(args.options or ("", "")) < 2:
        raise UserError("--options has only one answer to choose from: give two or more.")
    for path in {path: None for one in asked for path in one.images}:
        open_image(path)  # all are checked before the model loads
    asking = Asking(Answerer.load(args.model), args.batch_size, args.max_new_tokens)
    for one in asked:
        try:
            asking.check(one)
        except UserError as error:
            name = "" if args.questions is None else f"Question {one.name}: "
            raise UserError(f"{name}{error}") from error
    if args.out is not None:
        return answer_file(asking, asked, Path(args.out), model_fingerprint(args.model))
    if len(asked) == 1 and not asked[0].options and sys.stdout.isatty():
        asking.stream(asked[0])
        return None
    for part in _batches(asked, args.batch_size):
        for one, found in zip(part, asking.answers(part), strict=True):
            _print_answer(one, found, len(asked) > 1)
    return None
