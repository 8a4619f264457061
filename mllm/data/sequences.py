"""The sequences of a training run, planned as a function of the seed.

Sequence r of the run is the same on any number of ranks, workers and restarts: the Trainer reads
sequences in order, and resuming means to start at a later one. They are planned as far as they are
read.

Shapes: N tokens of an image.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice, tee
from typing import Any, NamedTuple

from torch.utils.data import Dataset

from data_pipelines.loading.batches import StepBatches
from data_pipelines.records import IMAGE_MARK, RecordText
from mllm.data.documents import (
    Document,
    conversation_document,
    drawing_document,
    question_document,
    text_document,
)
from mllm.data.packing import plan_sequences
from mllm.data.settings import MixtureSettings
from mllm.data.sources import (
    NOUNS,
    TASKS,
    TrainingSource,
    image_names,
    nothing_to_train,
    question_pairs,
)
from mllm.model.chat_template import ChatEncoder
from runtime.errors import UserError

SEEDS = {"question": 0, "drawing": 1, "conversation": 2, "text": 3}
LEFT_OUT = {"question": "questions", "conversation": "turns", "text": "tokens"}
PLANNED_AHEAD = 1000  # sequences, so that most faults of the data show before the first step
WINDOW = 16  # global batches whose sequences are sorted by length together, without packing


class Planned(NamedTuple):
    """A document of the run that is not built yet."""

    task: str
    """Of `TASKS`."""
    source: int
    """Its number."""
    record: int
    """Number within the source."""
    item: int
    """Which of the record's conversations."""
    number: int
    """Of the document in the run, which seeds whatever is random in it."""
    length: int = 0
    """In tokens."""
    num_left_out: int = 0
    """Questions, turns or tokens that do not fit into it."""


class TrainingSequences(Dataset):
    """Item r is the list of documents of sequence r.

    Args:
        sources: where documents come from; where codes hold several crops, each image takes one.
        offset: first image token id.
        num_sequences: of the whole run.
        context: tokens that the language model reads at most.
        packing: several documents in a sequence; else one, and sequences of similar length
            together.
        batch: sequences of a step, which without packing are of similar length.

    Raises:
        UserError: if there is nothing to train a task on, or a document is too long.
    """

    def __init__(
        self,
        sources: list[TrainingSource],
        chat: ChatEncoder,
        offset: int,
        mixture: MixtureSettings,
        max_seq_length: int,
        num_sequences: int,
        seed: int,
        context: int | None = None,
        packing: bool = True,
        batch: int = 1,
    ):
        self.sources, self.chat, self.offset, self.mixture = sources, chat, offset, mixture
        self.max_seq_length, self.num_sequences, self.seed = max_seq_length, num_sequences, seed
        self.max_length = min(max_seq_length, context or max_seq_length)  # of a document
        self._items = {task: [source.items(task) for source in sources] for task in TASKS}
        proportions = {task: getattr(mixture.proportions, task) for task in TASKS}
        total = sum(proportions.values())
        self._fractions = {task: p / total for task, p in proportions.items() if p > 0}
        for task in self._fractions:
            if not any(self._items[task]):
                raise nothing_to_train(task)
            self._refuse_misfits(task, context)
        self._plan: list[list[Planned]] = []  # the documents of each sequence
        self._planner = self._packed() if packing else self._by_length(batch)
        self._plan_until(min(num_sequences, PLANNED_AHEAD))

    def __len__(self) -> int:
        return self.num_sequences

    def __getitem__(self, number: int) -> list[Document]:
        self._plan_until(number + 1)
        return [self._document(one, self._codes_for(one)) for one in self._plan[number]]

    def _refuse_misfits(self, task: str, context: int | None) -> None:
        """Refuse records of which no document, or not every one, could be trained on."""
        longest, name, count = 0, "", 0
        for source, items in zip(self.sources, self._items[task], strict=True):
            for number, item in items:
                record = source.records[number]
                length = self._most_tokens(task, record, item)
                count += length > self.max_length
                if length > longest:
                    longest, name = length, record.record_id
        if longest <= self.max_length:
            return
        advice = f"raise max_seq_length to at least {longest}"
        if context is not None and longest > context:
            advice = (
                f"the language model reads at most {context:,}: leave them out of the prepared "
                f"data, or choose another llm"
            )
        raise UserError(
            f"{count:,} {'record has' if count == 1 else 'records have'} a {NOUNS[task]} that "
            f"takes more than {self.max_length:,} tokens with its images, the most {name!r} with "
            f"{longest:,}; {advice}"
        )

    def _most_tokens(self, task: str, record: RecordText, item: int) -> int:
        """Tokens of the record's smallest document, or of its largest where chance decides.

        Most texts are so short that their bytes alone prove that they fit, since no token is
        shorter than a byte: for them 0, and nothing is rendered.
        """
        image: Sequence[int] = range(self.chat.num_image_positions)
        if task == "question":
            pairs = question_pairs(record.questions)
            # A shared prefix needs one question that fits; as turns, each may be the first.
            choose = min if self.mixture.several_questions == "shared_prefix" else max
            if choose(self.chat.most_tokens(pair, 1) for pair in pairs) <= self.max_length:
                return 0
            return choose(len(question_document(self.chat, image, [pair])) for pair in pairs)
        if task == "drawing":
            if (
                max(self.chat.most_tokens([caption], 1) for caption in record.captions)
                <= self.max_length
            ):
                return 0
            return max(
                len(drawing_document(self.chat, caption, image)) for caption in record.captions
            )
        if task == "conversation":
            messages = [(m.role, m.content) for m in record.conversations[item].messages]
            names = image_names(record, item)
            marks = sum(content.count(IMAGE_MARK) for _, content in messages)
            if marks != len(names):
                problem = f"{marks} image marks, but {len(names)} images"
                raise UserError(f"a conversation of {record.record_id!r}: {problem}")
            roles = [role for role, _ in messages]
            until = roles.index("assistant") + 1 if "assistant" in roles else len(roles)
            first = [content for _, content in messages[:until]]
            if (
                self.chat.most_tokens(first, sum(text.count(IMAGE_MARK) for text in first))
                <= self.max_length
            ):
                return 0
            limit, images = self.max_length, [image] * len(names)
            return len(conversation_document(self.chat, messages, images, max_length=limit))
        return 0  # plain text is cut

    def _plan_until(self, num_sequences: int) -> None:
        self._plan += islice(self._planner, max(0, num_sequences - len(self._plan)))

    def _packed(self) -> Iterator[list[Planned]]:
        documents, of_lengths = tee(self._documents())
        lengths = (document.length for document in of_lengths)
        chosen: list[Planned] = []
        for numbers in plan_sequences(lengths, self.max_seq_length):
            chosen += islice(documents, max(0, max(numbers) + 1 - len(chosen)))
            yield [chosen[number] for number in numbers]

    def _by_length(self, batch: int) -> Iterator[list[Planned]]:
        documents = self._documents()
        for window in count():
            some = sorted(islice(documents, batch * WINDOW), key=lambda document: document.length)
            steps = [some[start : start + batch] for start in range(0, len(some), batch)]
            random.Random(f"{self.seed} {window} window").shuffle(steps)
            yield from ([document] for step in steps for document in step)

    def _documents(self) -> Iterator[Planned]:
        """The documents of the run, without end."""
        orders = {task: self._orders(task) for task in self._fractions}
        tasks = _in_turn(list(self._fractions.items()))
        placeholder = range(self.chat.num_image_positions)
        for number in count():
            task = next(tasks)
            planned = Planned(task, *next(orders[task]), number)
            built = self._document(planned, lambda name: placeholder)
            if len(built) > self.max_length:  # which bytes alone did not tell
                raise UserError(
                    f"a {task} of the record {self._record(planned).record_id!r} takes "
                    f"{len(built)} tokens, and a document at most {self.max_length}"
                )
            yield planned._replace(length=len(built), num_left_out=built.num_left_out)

    def _orders(self, task: str) -> Iterator[tuple[int, int, int]]:
        """(source, record, item) of one task without end, each source in a new order each epoch."""
        seed = self.seed + SEEDS[task]
        streams = {
            number: _shuffled(items, seed + 1_000_003 * number)
            for number, items in enumerate(self._items[task])
            if items
        }
        total = sum(self.sources[number].weight for number in streams)
        for source in _in_turn([(s, self.sources[s].weight / total) for s in streams]):
            yield source, *next(streams[source])

    def _codes_for(self, planned: Planned) -> Callable[[str], Sequence[int]]:
        """What gives the N token ids of a record's image, in the crop that this document takes."""
        codes = self.sources[planned.source].codes

        def image(name: str) -> Sequence[int]:
            assert codes is not None
            rng = random.Random(f"{self.seed} {planned.number} crop")
            crop = rng.randrange(codes.num_crops)
            return (codes.flat(name, crop) + self.offset).tolist()

        return image

    def _document(self, planned: Planned, image: Callable[[str], Sequence[int]]) -> Document:
        """Build it; `image` gives N token ids of a record's image, or N of anything for the length
        alone."""
        mixture, record = self.mixture, self._record(planned)
        rng = random.Random(f"{self.seed} {planned.number}")
        if planned.task == "question":
            pairs = question_pairs(record.questions)
            return self._questions(rng.sample(pairs, len(pairs)), image(record.record_id))
        if planned.task == "conversation":
            messages = [(m.role, m.content) for m in record.conversations[planned.item].messages]
            images = [image(name) for name in image_names(record, planned.item)]
            weights = mixture.answer_weight, mixture.drawing_weight
            try:
                return conversation_document(self.chat, messages, images, *weights, self.max_length)
            except ValueError as error:
                raise UserError(f"a conversation of {record.record_id!r}: {error}") from error
        if planned.task == "text":
            text, start = record.text or "", rng.randrange(2**30)
            return text_document(self.chat, text, mixture.text_weight, self.max_length, start)
        caption = rng.choice(record.captions)
        if rng.random() < mixture.caption_dropout:
            caption = ""
        return drawing_document(self.chat, caption, image(record.record_id), mixture.drawing_weight)

    def _questions(self, pairs: list[tuple[str, str]], image: Sequence[int]) -> Document:
        weight = self.mixture.answer_weight
        if self.mixture.several_questions == "shared_prefix":
            return question_document(self.chat, image, pairs, weight, self.max_length)
        messages = [turn for q, a in pairs for turn in (("user", q), ("assistant", a))]
        messages[0] = ("user", IMAGE_MARK + messages[0][1])
        return conversation_document(
            self.chat, messages, [image], weight, max_length=self.max_length
        )

    def records_of(self, task: str) -> Iterator[tuple[TrainingSource, RecordText]]:
        """The records that have something for a task, each with its source."""
        for source, own in zip(self.sources, self._items[task], strict=True):
            yield from ((source, source.records[record]) for record, _ in own)

    def record_ids(self, numbers: Sequence[int]) -> list[str]:
        """Ids of the records in some planned sequences, in order."""
        self._plan_until(max(numbers, default=-1) + 1)  # workers plan in processes of their own
        planned = [document for number in numbers for document in self._plan[number]]
        return [self._record(document).record_id for document in planned]

    def describe(self) -> dict[str, Any]:
        """Counts for the log, of the sequences that are planned."""
        planned = [document for sequence in self._plan for document in sequence]
        num_tokens = sum(document.length for document in planned)
        by_task = {task: [d for d in planned if d.task == task] for task in TASKS}
        return {
            "sequences": self.num_sequences,
            "planned_sequences": len(self._plan),
            **{f"{task}_documents": len(found) for task, found in by_task.items()},
            "left_out": {
                unit: sum(document.num_left_out for document in by_task[task])
                for task, unit in LEFT_OUT.items()
            },
            "padding_fraction": 1 - num_tokens / (len(self._plan) * self.max_seq_length),
        }

    def _record(self, planned: Planned) -> RecordText:
        return self.sources[planned.source].records[planned.record]


def _in_turn(fractions: list[tuple[Any, float]]) -> Iterator[Any]:
    """Names without end, each as often as its fraction says, as evenly as can be; the last fills
    in."""
    owed = {name: 0.0 for name, _ in fractions[:-1]}
    while True:
        for name, fraction in fractions[:-1]:
            owed[name] += fraction
        most = max(owed, key=lambda name: owed[name], default=None)
        if most is None or owed[most] < 1.0 - 1e-9:
            yield fractions[-1][0]
        else:
            owed[most] -= 1.0
            yield most


def _shuffled(items: list[tuple[int, int]], seed: int) -> Iterator[tuple[int, int]]:
    """The items without end, in a new order each epoch."""
    batches = StepBatches(len(items), 1, seed)
    for step in count():
        yield items[batches.indices(step)[0]]
