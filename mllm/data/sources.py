"""Where training documents come from: records of a prepared folder, and codes of their images.

Codes are checked to be of the model's own image tokenizer, of these images, and whole. Nothing else
would tell: codes of another tokenizer are integers of the same range, and the loss falls on them as
well.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.answers import most_frequent_answer
from data_pipelines.loading.dataset import PreparedDataset
from data_pipelines.records import IMAGE_MARK, Question, RecordText
from mllm.data.settings import SourceSettings
from runtime.errors import UserError
from runtime.files import read_json, write_json
from runtime.ranks import is_main_rank
from tokenizer.extraction.code_shards import CodeStore

# The order in which tasks that are owed as much take turns; the last one that is trained fills in.
TASKS = ("question", "conversation", "text", "drawing")
NOUNS = {task: task for task in TASKS} | {"drawing": "caption"}


@dataclass
class TrainingSource:
    """The text of records with the codes of their images, if there are any; `weight` says how often
    the source is used, relative to others."""

    records: list[RecordText]
    codes: CodeStore | None
    weight: float = 1.0

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


def nothing_to_train(task: str) -> UserError:
    """What to raise where no record has a document of a task."""
    return UserError(f"no record has a {NOUNS[task]}; set mixture.proportions.{task} to 0")


def open_sources(
    sources: list[SourceSettings], code_fingerprint: str, model: Path
) -> list[TrainingSource]:
    """Open the data and codes that a run trains on; `code_fingerprint` is that of the image
    tokenizer inside the `model`, whose folder is named in messages.

    Raises:
        UserError: for codes of another tokenizer or of other images, and for a damaged shard.
    """
    opened = []
    for source in sources:
        records = PreparedDataset(source.data)
        codes = None if source.codes is None else CodeStore(source.codes)
        if codes is not None:
            _refuse_wrong_codes(source, codes, records, code_fingerprint, model)
        opened.append(TrainingSource(list(records.texts()), codes, source.weight))
    return opened


def _refuse_wrong_codes(
    source: SourceSettings,
    codes: CodeStore,
    records: PreparedDataset,
    code_fingerprint: str,
    model: Path,
) -> None:
    if codes.manifest.tokenizer_fingerprint != code_fingerprint:
        raise UserError(
            f"the codes in {source.codes} were made by another tokenizer than the one inside "
            f"{model}; extract codes with that tokenizer, or init the model with the other"
        )
    # Two folders of images may both hold a 0001.png, so the records' names alone prove nothing.
    if codes.manifest.data_fingerprint != records.fingerprint:
        raise UserError(
            f"the codes in {source.codes} were extracted from other data than {source.data}, or "
            f"that was prepared again since; extract codes from {source.data}"
        )
    if is_main_rank():
        codes.verify()


def refuse_other_run(out: Path, sources: list[TrainingSource]) -> None:
    """Refuse to resume a run, if there is one in `out`, with other codes than it began with.

    The model in a checkpoint holds the tokenizer that its codes were made by.
    """
    path = out / "codes.json"
    stores = [source.codes for source in sources if source.codes is not None]
    mine = {
        "tokenizer_fingerprint": " ".join(s.manifest.tokenizer_fingerprint for s in stores),
        "data_fingerprint": " ".join(s.manifest.data_fingerprint for s in stores),
        "num_crops": " ".join(str(s.num_crops) for s in stores),
    }
    if path.is_file() and any((out / "checkpoints").glob("checkpoint-*")):
        began = read_json(path).items()
        if changed := [key.replace("_", " ") for key, value in began if mine.get(key) != value]:
            raise UserError(
                f"the run in {out} began with codes of another {' and '.join(changed)}; give "
                f"another `out`, or delete {out}"
            )
    elif is_main_rank():
        write_json(path, mine)


def question_pairs(questions: list[Question]) -> list[tuple[str, str]]:
    """(question, answer) of the questions that have an answer."""
    return [(q.question, most_frequent_answer(q.answers)) for q in questions if q.answers]


def image_names(record: RecordText, item: int) -> list[str]:
    """Ids of the records whose images a conversation shows, in order."""
    conversation = record.conversations[item]
    marks = sum(message.content.count(IMAGE_MARK) for message in conversation.messages)
    return conversation.images or [record.record_id] * min(marks, 1)
