"""The rows of a training run, planned as a function of the seed.

Row r of the run is the same on any number of ranks, workers and restarts: the Trainer reads rows in
order, and resuming means to go on at a later row. Rows are planned as far as they are read.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

from torch.utils.data import Dataset

from data_pipelines.loading.batches import StepBatches
from data_pipelines.loading.dataset import PreparedDataset
from data_pipelines.records import IMAGE_MARK, Question, RecordText
from mllm.data.packing import plan_rows
from mllm.data.sequences import (
    Document,
    conversation_document,
    drawing_document,
    question_document,
    text_document,
)
from mllm.model.chat_template import ChatEncoder
from mllm.phase.settings import MixtureConfig
from runtime.errors import UserError
from tokenizer.extraction.code_shards import CodeStore

# The order in which tasks that are owed as much take turns; the last one that has a share fills in.
TASKS = ("question", "conversation", "text", "drawing")
SEEDS = {"question": 0, "drawing": 1, "conversation": 2, "text": 3}
NOUNS = {"question": "question", "drawing": "caption", "conversation": "conversation",
         "text": "text"}  # fmt: skip
PLANNED_AHEAD = 1000  # rows, so that most faults of the data show before the first step
WINDOW = 16  # global batches whose rows are sorted by length together, without packing


@dataclass
class TrainingSource:
    """Records with their codes.

    Attributes:
        records: the text of them; image bytes stay on disk.
        codes: of their images; None where there are none.
        weight: how often it is taken, relative to other sources.
    """

    records: list[RecordText]
    codes: CodeStore | None
    weight: float = 1.0

    @classmethod
    def open(
        cls, data: PreparedDataset, codes: CodeStore | None, weight: float = 1.0
    ) -> "TrainingSource":
        """Read the text of a prepared folder."""
        return cls(list(data.texts()), codes, weight)


@dataclass(frozen=True)
class Chosen:
    """One document of the run.

    Attributes:
        task: of `TASKS`.
        source: its number.
        record: number within the source.
        item: which of the record's conversations.
        number: of the document in the run, which seeds whatever is random in it.
    """

    task: str
    source: int
    record: int
    item: int
    number: int


class TrainingRows(Dataset):
    """Item r is the list of documents of row r.

    Args:
        sources: where documents come from; where codes hold several crops, each image takes one.
        chat: renders the template.
        offset: first image token id.
        mixture: shares and weights.
        row_length: tokens per row.
        num_rows: rows of the whole run.
        seed: of everything random.
        context: tokens that the language model reads at most.
        packing: several documents in a row; else one, and rows of a length near each other.
        batch: rows of a step, which without packing are of about one length.
    """

    def __init__(
        self,
        sources: list[TrainingSource],
        chat: ChatEncoder,
        offset: int,
        mixture: MixtureConfig,
        row_length: int,
        num_rows: int,
        seed: int,
        context: int | None = None,
        packing: bool = True,
        batch: int = 1,
    ):
        self.sources = sources
        self.chat = chat
        self.offset = offset
        self.mixture = mixture
        self.row_length = row_length
        self.num_rows = num_rows
        self.seed = seed
        self.context = context
        self._items = {task: [_items(task, source) for source in sources] for task in TASKS}
        shares = {task: getattr(mixture.shares, task) for task in TASKS}
        total = sum(shares.values())
        self._shares = {task: share / total for task, share in shares.items() if share > 0}
        for task in self._shares:
            if not any(self._items[task]):
                raise UserError(f"No record has a {NOUNS[task]}: set mixture.shares.{task} to 0.")
        self._plan: list[list[Chosen]] = []
        self._rows = self._packed() if packing else self._by_length(batch)
        self._plan_until(min(num_rows, PLANNED_AHEAD))

    def _plan_until(self, num_rows: int) -> None:
        self._plan += islice(self._rows, max(0, num_rows - len(self._plan)))

    def _packed(self) -> Iterator[list[Chosen]]:
        chosen: list[Chosen] = []

        def lengths() -> Iterator[int]:
            for document, length in self._documents():
                chosen.append(document)
                yield length

        try:
            for numbers in plan_rows(lengths(), self.row_length):
                yield [chosen[number] for number in numbers]
        except ValueError as error:  # the data's longest document decides, which only users know
            raise UserError(str(error)) from error

    def _by_length(self, batch: int) -> Iterator[list[Chosen]]:
        documents = self._documents()
        for window in count():
            some = sorted(islice(documents, batch * WINDOW), key=lambda pair: pair[1])
            steps = [some[start : start + batch] for start in range(0, len(some), batch)]
            random.Random(f"{self.seed} {window} window").shuffle(steps)
            for step in steps:
                for document, length in step:
                    if length > self.row_length:
                        raise UserError(
                            f"A document of {length} tokens is longer than row_length "
                            f"{self.row_length}: raise row_length or shorten the document."
                        )
                    yield [document]

    def _documents(self) -> Iterator[tuple[Chosen, int]]:
        """The documents of the run, for ever, with their lengths."""
        orders = {task: self._orders(task) for task in self._shares}
        tasks = _in_turn(list(self._shares.items()))
        for number in count():
            task = next(tasks)
            document = Chosen(task, *next(orders[task]), number)
            length = len(self._document(document))
            if self.context is not None and length > self.context:
                name = self.sources[document.source].records[document.record].record_id
                raise UserError(
                    f"A {task} document of the record {name!r} has {length} tokens, more than the "
                    f"{self.context} that the language model reads: shorten it, or take another "
                    f"llm."
                )
            yield document, length

    def _orders(self, task: str) -> Iterator[tuple[int, int, int]]:
        """(source, record, item) of one task for ever, each source in a new order each epoch."""
        found = [(s, items) for s, items in enumerate(self._items[task]) if items]
        streams = {
            s: _shuffled(items, self.seed + SEEDS[task] + 1_000_003 * s) for s, items in found
        }
        weights = [(s, self.sources[s].weight) for s, _ in found]
        total = sum(weight for _, weight in weights)
        for source in _in_turn([(s, weight / total) for s, weight in weights]):
            yield source, *next(streams[source])

    def _document(self, chosen: Chosen, with_codes: bool = False) -> Document:
        """A document, its codes all zero unless asked for."""
        source, mixture = self.sources[chosen.source], self.mixture
        record = source.records[chosen.record]
        draw = random.Random(f"{self.seed} {chosen.number}")

        def image(name: str) -> list[int]:
            if not with_codes:
                return [self.offset] * self.chat.num_image_positions
            assert source.codes is not None
            crops = random.Random(f"{self.seed} {chosen.number} crop")
            codes = source.codes.flat(name, crops.randrange(source.codes.num_crops))
            return (codes + self.offset).tolist()

        if chosen.task == "question":
            pairs = _pairs(record.questions)
            return self._questions(draw.sample(pairs, len(pairs)), image(record.record_id))
        if chosen.task == "conversation":
            conversation = record.conversations[chosen.item]
            names = _image_names(record, chosen.item)
            try:
                return conversation_document(
                    self.chat,
                    [(message.role, message.content) for message in conversation.messages],
                    [image(name) for name in names],
                    mixture.answer_weight,
                    mixture.drawing_weight,
                    self.row_length,
                )
            except ValueError as error:
                raise UserError(f"A conversation of {record.record_id!r}: {error}") from error
        if chosen.task == "text":
            return text_document(
                self.chat, record.text or "", mixture.text_weight, self.row_length,
                draw.randrange(2**30),
            )  # fmt: skip
        caption = draw.choice(record.captions)
        if draw.random() < mixture.caption_dropout:
            caption = ""
        return drawing_document(self.chat, caption, image(record.record_id), mixture.drawing_weight)

    def _questions(self, pairs: list[tuple[str, str]], image: list[int]) -> Document:
        weight = self.mixture.answer_weight
        if self.mixture.several_questions == "branches":
            return question_document(self.chat, image, pairs, weight, self.row_length)
        messages = [turn for q, a in pairs for turn in (("user", q), ("assistant", a))]
        messages[0] = ("user", IMAGE_MARK + messages[0][1])
        return conversation_document(
            self.chat, messages, [image], weight, max_length=self.row_length
        )

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, row: int) -> list[Document]:
        self._plan_until(row + 1)
        return [self._document(chosen, with_codes=True) for chosen in self._plan[row]]

    def some_captions(self, number: int) -> list[str]:
        """Captions of the first records that have any."""
        found = (
            source.records[record].captions[0]
            for source, items in zip(self.sources, self._items["drawing"], strict=True)
            for record, _ in items
        )
        return list(islice(found, number))

    def some_questions(self, number: int) -> list[tuple[str, str, list[int]]]:
        """The first questions, their answers, and the token ids of their images."""
        found = (
            (*_pairs(source.records[record].questions)[0], source, record)
            for source, items in zip(self.sources, self._items["question"], strict=True)
            for record, _ in items
        )
        return [
            (question, answer, (source.codes.flat(source.records[record].record_id) + self.offset)
             .tolist())
            for question, answer, source, record in islice(found, number)
            if source.codes is not None
        ]  # fmt: skip

    def describe(self) -> dict[str, Any]:
        """Counts for the log, of the rows that are planned."""
        planned = [document for row in self._plan for document in row]
        lengths = [len(self._document(chosen)) for chosen in planned]
        counts = {
            f"{task}_documents": sum(chosen.task == task for chosen in planned) for task in TASKS
        }
        return {
            "rows": self.num_rows,
            "planned_rows": len(self._plan),
            **counts,
            "padding_share": 1 - sum(lengths) / (len(self._plan) * self.row_length),
        }


def _items(task: str, source: TrainingSource) -> list[tuple[int, int]]:
    """(record, item) of all that a source has for a task."""
    records = enumerate(source.records)
    has_codes = source.codes is not None
    if task == "question":
        return [(i, 0) for i, r in records if r.has_image and has_codes and _pairs(r.questions)]
    if task == "drawing":
        return [(i, 0) for i, r in records if r.has_image and has_codes and r.captions]
    if task == "text":
        return [(i, 0) for i, r in records if r.text]
    return [
        (i, item)
        for i, r in records
        for item in range(len(r.conversations))
        if has_codes or not _image_names(r, item)
    ]


def _image_names(record: RecordText, item: int) -> list[str]:
    """Ids of the records whose images a conversation shows, in order."""
    conversation = record.conversations[item]
    marks = sum(message.content.count(IMAGE_MARK) for message in conversation.messages)
    return conversation.images or [record.record_id] * min(marks, 1)


def _in_turn(shares: list[tuple[Any, float]]) -> Iterator[Any]:
    """Names for ever, each as often as its share says, as evenly as can be; the last fills in."""
    owed = {name: 0.0 for name, _ in shares[:-1]}
    while True:
        for name, share in shares[:-1]:
            owed[name] += share
        most = max(owed, key=lambda name: owed[name], default=None)
        if most is None or owed[most] < 1.0 - 1e-9:
            yield shares[-1][0]
        else:
            owed[most] -= 1.0
            yield most


def _shuffled(items: list[tuple[int, int]], seed: int) -> Iterator[tuple[int, int]]:
    """The items for ever, in a new order each epoch."""
    batches = StepBatches(len(items), 1, seed)
    for step in count():
        yield items[batches.indices(step)[0]]


def _pairs(questions: list[Question]) -> list[tuple[str, str]]:
    return [(question.question, question.answers[0]) for question in questions if question.answers]
