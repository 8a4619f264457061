"""Where training documents come from: records of a prepared folder, and codes of their images."""

from collections.abc import Iterator
from dataclasses import dataclass

from data_pipelines.loading.dataset import PreparedDataset
from data_pipelines.records import IMAGE_MARK, Question, RecordText
from runtime.errors import UserError
from tokenizer.extraction.code_shards import CodeStore

# The order in which tasks that are owed as much take turns; the last one that is trained fills in.
TASKS = ("question", "conversation", "text", "drawing")
NOUNS = {"question": "question", "drawing": "caption", "conversation": "conversation",
         "text": "text"}  # fmt: skip


@dataclass
class TrainingSource:
    """Records with their codes.

    Attributes:
        records: the text of them; image bytes stay on disk.
        codes: of their images; None where there are none.
        weight: how often it is used, relative to other sources.
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

    def items(self, task: str) -> list[tuple[int, int]]:
        """(record, which of its conversations) of all that it has for a task."""
        return [
            (number, item)
            for number, record in enumerate(self.records)
            for item in self._items(task, record)
        ]

    def _items(self, task: str, record: RecordText) -> Iterator[int]:
        has_codes = self.codes is not None
        if task == "conversation":
            for item in range(len(record.conversations)):
                names = image_names(record, item)
                if has_codes or not names:
                    self._require_codes(names)
                    yield item
        elif task == "text":
            yield from range(bool(record.text))
        elif record.has_image and has_codes:
            found = question_pairs(record.questions) if task == "question" else record.captions
            if found:
                self._require_codes([record.record_id])
                yield 0

    def _require_codes(self, names: list[str]) -> None:
        for name in names:
            if self.codes is not None and name not in self.codes:
                raise UserError(
                    f"{self.codes.folder} has no codes for the record {name!r}; extract codes from "
                    f"the same prepared data"
                )


def question_pairs(questions: list[Question]) -> list[tuple[str, str]]:
    """(question, answer) of the questions that have an answer."""
    return [(question.question, question.answers[0]) for question in questions if question.answers]


def image_names(record: RecordText, item: int) -> list[str]:
    """Ids of the records whose images a conversation shows, in order."""
    conversation = record.conversations[item]
    marks = sum(message.content.count(IMAGE_MARK) for message in conversation.messages)
    return conversation.images or [record.record_id] * min(marks, 1)
