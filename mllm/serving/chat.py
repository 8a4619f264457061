"""A conversation in the terminal, with images in both directions: `semhitok chat`."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from data_pipelines.images import open_image, write_png
from data_pipelines.records import IMAGE_MARK
from mllm.drawing.drawer import Drawer
from mllm.drawing.requests import ImageRequest
from mllm.model.sampler import model_sampler
from mllm.serving.answering import Answerer
from mllm.serving.settings import ChatSettings
from runtime.errors import UserError, one_line
from runtime.run_folder import make_folder

HELP = """\
  /image FILE    show an image; the next question is about it
  /draw PROMPT   draw one, which is then the image
  /new           forget the conversation and its images
  /help          this
  /quit          leave; so does Ctrl-D"""


class ChatSession:
    """What has been said and shown; `drawer` has the model of `answerer`."""

    def __init__(self, answerer: Answerer, drawer: Drawer, settings: ChatSettings):
        self.answerer, self.drawer, self.settings = answerer, drawer, settings
        self.seed = settings.seed
        self.messages: list[dict[str, str]] = []
        self.images: list[Tensor] = []  # of the messages, in order
        self.shown: list[Tensor] = []  # that the next question is about
        self.fresh = False  # whether a question came since they were shown

    def take(self, line: str) -> bool:
        """Do what a line says; False to leave.

        Raises:
            UserError: for what cannot be done; the conversation is as it was.
        """
        word, _, rest = line.strip().partition(" ")
        rest = rest.strip()
        if not word:
            return True
        if word == "/quit":
            return False
        if word == "/help":
            print(HELP)
        elif word == "/new":
            self.messages, self.images, self.shown = [], [], []
        elif word == "/image":
            self._show(self._read(rest))
            print(f"(sees {rest})")
        elif word == "/draw":
            self._draw(rest)
        elif word.startswith("/"):
            raise UserError(f"There is no {word}: /help lists what there is.")
        else:
            self._ask(line.strip())
        return True

    def _read(self, name: str) -> Tensor:
        if not name:
            raise UserError("Name the file: /image FILE.")
        return self.answerer.image_tokens([open_image(Path(name).expanduser())])[0]

    def _show(self, tokens: Tensor) -> None:
        # Images given one after another are asked about together; after a question, anew.
        self.shown = [*self.shown, tokens] if self.fresh else [tokens]
        self.fresh = True

    def _draw(self, prompt: str) -> None:
        if not prompt:
            raise UserError("Say what to draw: /draw PROMPT.")
        [(_, codes)] = self.drawer.draw([ImageRequest(prompt, self.seed)])
        self.seed += 1
        out = make_folder(self.settings.out)
        paths = (out / f"drawing-{number:03d}.png" for number in range(10**6))
        path = next(path for path in paths if not path.exists())
        write_png(self.drawer.pictures(codes.unsqueeze(0))[0], path)
        self._show(self.drawer.model.vocabulary.token_ids(codes))
        print(f"(drew {path})")

    def _ask(self, question: str) -> None:
        question = question.replace(IMAGE_MARK, "")
        if self.settings.history:
            new = self.shown if self.fresh else []
            before, images = self.messages, [*self.images, *new]
        else:
            new, before, images = self.shown, [], self.shown
        asked = [*before, {"role": "user", "content": IMAGE_MARK * len(new) + question}]
        try:
            prompt = self.answerer.prompt(asked)
            answer = self.answerer.stream(prompt, images, self.settings.max_new_tokens)
        except UserError as error:
            raise UserError(f"{str(error).rstrip('.')}, or begin anew with /new.") from error
        self.fresh = False
        if self.settings.history:
            self.messages = [*asked, {"role": "assistant", "content": answer}]
            self.images = images


def lines() -> Iterator[str]:
    """What is typed, or piped in, line by line.

    Raises:
        UserError: if what is piped in is no text.
    """
    if not sys.stdin.isatty():
        try:
            for number, line in enumerate(sys.stdin):
                yield line if number else line.removeprefix("\ufeff")  # Windows marks the start
        except UnicodeDecodeError as error:
            raise UserError(f"standard input is not UTF-8 text: {error}") from error
        return
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - `input` edits its line through it
    while True:
        try:
            yield input("> ")
        except EOFError:
            print()
            return


def chat(settings: ChatSettings) -> None:
    """Read lines until the last one, or until `/quit`.

    Raises:
        UserError: if the folder holds no whole model, or a line is no text.
    """
    answerer = Answerer.load(settings.model)
    sampler = model_sampler(answerer.model.config.image_sampler, settings.sampler)
    drawer = Drawer(answerer.model, answerer.processor, sampler, sampler.num_candidates)
    session = ChatSession(answerer, drawer, settings)
    if sys.stdin.isatty():
        print(HELP)
    for line in lines():
        try:
            if not session.take(line):
                return
        except UserError as error:
            print(f"({one_line(error)})")
        sys.stdout.flush()
