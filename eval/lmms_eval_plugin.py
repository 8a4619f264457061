"""A saved model in lmms-eval, so that all of its tasks run on it.

    lmms_eval --model semhitok --model_args pretrained=DIR --tasks pope,gqa,mme --batch_size 16
    lmms_eval --model semhitok --model_args pretrained=DIR --tasks seedbench_ppl --force_simple

The second is for tasks that compare options by their likelihood, which lmms-eval has for its
"simple" interface alone. lmms-eval finds this file through the entry point `lmms_eval.models`;
nothing else here imports it.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from PIL import Image
from torch import Tensor

from data_pipelines.images import upright_rgb
from data_pipelines.records import IMAGE_MARK
from mllm.serving.answering import Answerer, Question, plan_batches
from runtime.errors import UserError
from runtime.progress import Progress

Messages = list[dict[str, Any]]
ToMessages = Callable[..., Any]
DEFAULT_NEW_TOKENS = 128
"""Longest answer where a task says nothing."""


def manifest() -> ModelManifest:
    """What lmms-eval asks of the entry point."""
    return ModelManifest(
        "semhitok",
        simple_class_path="eval.lmms_eval_plugin.SimpleSemHiTok",
        chat_class_path="eval.lmms_eval_plugin.SemHiTok",
    )


class SemHiTok(lmms):
    """The interface of lmms-eval over `mllm.serving.answering.Answerer`.

    Args:
        pretrained: a saved unified model.
        batch_size: prompts at a time.
        device: "cpu", "cuda" or such; by default each rank's own GPU where there is one.

    Raises:
        UserError: if the folder holds no whole model, or an argument is unknown.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str = "",
        batch_size: int | str = 1,
        device: str | None = None,
        max_batch_size: int | str | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__()
        if unknown or not pretrained:
            wrong = f"there is no {', '.join(unknown)}" if unknown else "pretrained is missing"
            raise UserError(f"--model_args of semhitok are pretrained=DIR and device=NAME; {wrong}")
        self.accelerator = Accelerator()
        self._rank = self.accelerator.process_index
        self._world_size = self.accelerator.num_processes
        # lmms-eval gives device=cuda to every rank; with several, each has its own.
        if self._world_size > 1 or device == "cuda":
            device = str(self.accelerator.device)
        self.answerer = Answerer.load(pretrained, device)
        is_auto = str(batch_size).startswith("auto")
        self.batch_size = int(max_batch_size or 16) if is_auto else int(batch_size)

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answers in the order of the requests."""
        found = [self._request(request.args) for request in requests]
        asked = [to_messages(document) for to_messages, _, document in found]
        settings = [chosen for _, chosen, _ in found]
        with Progress(len(asked), "answer", "question") as progress:
            return self._answer(asked, settings, progress)

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[list[str]]:
        """Answers of every round; the task makes each round's messages from the answers before."""
        answers: list[list[str]] = []
        with Progress(len(requests), "answer", "conversation") as progress:
            for request in requests:
                answers.append(self._rounds(*self._request(request.args)))
                progress.update()
        return answers

    def _request(self, arguments: Sequence[Any]) -> tuple[ToMessages, dict[str, Any], Any]:
        """What makes messages of a document, the settings, and the document."""
        _, to_messages, settings, doc_id, task, split = arguments
        return to_messages, dict(settings), self.task_dict[task][split][doc_id]

    def loglikelihood(self, requests: Sequence[Any]) -> list[GenerationResult]:
        """Mean negative log-likelihood a token of each continuation, and whether it is greedy.

        The base class speaks of a log-likelihood, but lmms-eval takes the *least* of these numbers
        as the choice, and its own models return their loss; so does this one. The space that tasks
        put before a continuation is left out: the assistant's turn begins with the word itself.
        A bare pair would reach the task as a text (version 0.7.3), so it goes in a result's `text`,
        which is passed on as it is.
        """
        questions = []
        for request in requests:
            context, continuation, *rest = request.args
            pictures: list[Image.Image] = []
            if rest:
                to_visuals, doc_id, task, split = rest
                document = self.task_dict[task][split][doc_id]
                pictures = to_visuals(document) if to_visuals else []
                continuation = continuation(document) if callable(continuation) else continuation
            content = IMAGE_MARK * len(pictures) + context.replace(IMAGE_MARK, "")
            prompt = self.answerer.prompt([{"role": "user", "content": content}])
            options = (str(continuation).lstrip(),)
            questions.append(Question(prompt, tuple(map(_Picture, pictures)), options))
        results: list[GenerationResult] = []
        batches = plan_batches([len(question.prompt) for question in questions], self.batch_size)
        with Progress(len(requests), "compare", "answer") as progress:
            for batch, answers in self.answerer.answer_list(
                questions, batches, self._tokens, batch_size=self.batch_size
            ):
                for (found,) in (answer.likelihoods for answer in answers):
                    pair: Any = (-found.log_likelihood / found.num_tokens, found.is_greedy)
                    results.append(GenerationResult(pair))
                progress.update(len(batch))
        return results

    def _rounds(self, to_messages: ToMessages, settings: dict[str, Any], doc: Any) -> list[str]:
        said: list[str] = []
        messages, info = to_messages(doc), None
        while True:
            said += self._answer([messages], [settings])
            following = to_messages(
                doc, round_idx=len(said), previous_output=list(said), previous_round_info=info
            )
            if not (isinstance(following, tuple) and len(following) == 4) or following[1]:
                return said
            messages, _, _, info = following

    def _answer(
        self,
        asked: Sequence[Messages],
        settings: Sequence[dict[str, Any]],
        progress: Progress | None = None,
    ) -> list[str]:
        """Answers in the order asked; prompts of like settings and length share a batch."""
        questions = []
        for messages in asked:
            said, pictures = _conversation(messages)
            questions.append(Question(self.answerer.prompt(said), tuple(map(_Picture, pictures))))
        alike: dict[str, list[int]] = defaultdict(list)
        for index, chosen in enumerate(settings):
            alike[str(chosen)].append(index)
        texts = [""] * len(asked)
        for indices in alike.values():
            chosen = settings[indices[0]]
            lengths = [len(questions[i].prompt) for i in indices]
            for part in plan_batches(lengths, self.batch_size, window=len(indices)):
                batch, longest = [indices[i] for i in part], max(lengths[i] for i in part)
                options = self._generation(chosen, longest)
                found = self.answerer.answer_list(questions, [batch], self._tokens, **options)
                for i, answer in zip(batch, next(found)[1], strict=True):
                    texts[i] = _cut(answer.text, chosen.get("until"))
                if progress is not None:
                    progress.update(len(batch))
        return texts

    def _tokens(self, pictures: list["_Picture"]) -> Sequence[Tensor]:
        images = [upright_rgb(picture.image) for picture in pictures]
        return list(self.answerer.image_tokens(images))

    def _generation(self, settings: dict[str, Any], prompt_length: int) -> dict[str, Any]:
        """A task's settings as `Answerer.answer` takes them; never beyond the model's context."""
        wanted = int(settings.get("max_new_tokens") or DEFAULT_NEW_TOKENS)
        room = self.answerer.context_length - prompt_length
        chosen: dict[str, Any] = {"max_new_tokens": max(1, min(wanted, room))}
        if (settings.get("num_beams") or 1) > 1:
            chosen["num_beams"] = settings["num_beams"]
        if settings.get("do_sample") or (settings.get("temperature") or 0) > 0:
            sampling = {name: settings.get(name) for name in ("temperature", "top_p")}
            chosen |= {"do_sample": True} | {k: value for k, value in sampling.items() if value}
        return chosen


class SimpleSemHiTok(SemHiTok):
    """The same over lmms-eval's older interface, in which tasks give a text and its pictures."""

    is_simple = True

    def _request(self, arguments: Sequence[Any]) -> tuple[ToMessages, dict[str, Any], Any]:
        """The same; from the second round on `doc_to_text` gives the pictures."""
        context, settings, to_visuals, *to_text, doc_id, task, split = arguments

        def to_messages(document: Any, round_idx: int = 0, **previous: Any) -> Any:
            if round_idx == 0:
                return _user_turn(to_visuals(document), context)
            visuals, text, ends, *rest = to_text[0](document, round_idx=round_idx, **previous)
            return (None if ends else _user_turn(visuals, text)), ends, *rest

        return to_messages, dict(settings), self.task_dict[task][split][doc_id]


@dataclass(frozen=True, eq=False)
class _Picture:
    """A picture of a question, known by itself alone."""

    image: Image.Image


def _user_turn(pictures: Sequence[Image.Image] | None, text: str) -> Messages:
    content: list[dict[str, Any]] = [{"type": "image", "url": p} for p in pictures or ()]
    return [{"role": "user", "content": [*content, {"type": "text", "text": text}]}]


def _conversation(messages: Messages) -> tuple[list[dict[str, str]], list[Image.Image]]:
    """lmms-eval's messages as ours, with a mark for each picture, and the pictures."""
    said, pictures = [], []
    for message in messages:
        content, text = message["content"], ""
        parts: list[Any] = [{"type": "text", "text": content}]
        for part in parts if isinstance(content, str) else content:
            if part["type"] == "text":
                text += part["text"].replace(IMAGE_MARK, "")
            elif part["type"] == "image":
                text += IMAGE_MARK
                pictures.append(part["url"])
            else:
                raise UserError(f"the model reads text and images; this task has {part['type']}")
        said.append({"role": message["role"], "content": text})
    return said, pictures


def _cut(text: str, until: Any) -> str:
    """The text before the first of the task's stop strings."""
    stops = [until] if isinstance(until, str) else until or []
    found = [text.find(stop) for stop in stops if stop and stop in text]
    return text[: min(found)].strip() if found else text
