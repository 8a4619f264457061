"""The packed rows of a training run, planned ahead as a function of the seed.

Row r of the run is the same on any number of ranks, workers and restarts: the Trainer reads rows in
order, and resuming means to go on at a later row.
"""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from data_pipelines.batches import StepBatches
from data_pipelines.dataset import PreparedDataset
from data_pipelines.records import Question
from mllm.chat import ChatEncoder
from mllm.packing import plan_rows
from mllm.sequences import Document, drawing_document, question_document
from mllm.training_config import MixtureConfig
from semhitok.errors import UserError
from tokenizer.code_shards import CodeStore


class TrainingRows(Dataset):
    """Item r is the list of documents of row r.

    Args:
        records: prepared folder.
        codes: of the same records; where they hold several crops, each document takes one.
        chat: renders the template.
        offset: first image token id.
        mixture: shares and weights.
        row_length: tokens per row.
        num_rows: rows of the whole run.
        seed: of everything random.
    """

    def __init__(
        self,
        records: PreparedDataset,
        codes: CodeStore,
        chat: ChatEncoder,
        offset: int,
        mixture: MixtureConfig,
        row_length: int,
        num_rows: int,
        seed: int,
    ):
        self.codes = codes
        self.chat = chat
        self.offset = offset
        self.mixture = mixture
        self.row_length = row_length
        self.seed = seed
        # Text of the records only; image bytes stay on disk.
        self._text = [(r.record_id, r.captions, _pairs(r.questions)) for r in records.texts()]
        self._with_questions = [i for i, (_, _, pairs) in enumerate(self._text) if pairs]
        self._with_captions = [i for i, (_, captions, _) in enumerate(self._text) if captions]
        if mixture.question_share > 0 and not self._with_questions:
            raise UserError("No record has a question: set mixture.question_share to 0.")
        if mixture.question_share < 1 and not self._with_captions:
            raise UserError("No record has a caption: set mixture.question_share to 1.")
        self._plan = self._plan_rows(num_rows)

    def _plan_rows(self, num_rows: int) -> list[list[tuple[str, int, int]]]:
        """(task, record, number of the document) for each document of each row."""
        chosen: list[tuple[str, int, int]] = []

        def lengths() -> Iterator[int]:
            orders = {
                "question": self._order(self._with_questions, self.seed),
                "drawing": self._order(self._with_captions, self.seed + 1),
            }
            owed = 0.0
            while True:
                owed += self.mixture.question_share
                task = "question" if owed >= 1.0 - 1e-9 else "drawing"
                owed -= task == "question"
                chosen.append((task, next(orders[task]), len(chosen)))
                yield self._length(*chosen[-1])

        rows = []
        try:
            for documents in plan_rows(lengths(), self.row_length):
                rows.append([chosen[number] for number in documents])
                if len(rows) == num_rows:
                    return rows
        except ValueError as error:  # the data's longest document decides, which only users know
            raise UserError(str(error)) from error
        raise AssertionError("unreachable: the stream of documents has no end")

    @staticmethod
    def _order(indices: list[int], seed: int) -> Iterator[int]:
        """The indices for ever, in a new order each epoch."""
        batches = StepBatches(max(1, len(indices)), 1, seed)
        step = 0
        while True:
            yield indices[batches.indices(step)[0]]
            step += 1

    def _length(self, task: str, record: int, number: int) -> int:
        return len(
            self._document(task, record, number, np.zeros(self.chat.num_image_positions, int))
        )

    def _document(self, task: str, record: int, number: int, codes: np.ndarray) -> Document:
        _, captions, pairs = self._text[record]
        image_token_ids = (codes + self.offset).tolist()
        draw = random.Random(f"{self.seed} {number}")
        if task == "question":
            pairs = draw.sample(pairs, len(pairs))
            return question_document(
                self.chat, image_token_ids, pairs, self.mixture.answer_weight, self.row_length
            )
        caption = draw.choice(captions)
        if draw.random() < self.mixture.caption_dropout:
            caption = ""
        return drawing_document(self.chat, caption, image_token_ids, self.mixture.drawing_weight)

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, row: int) -> list[Document]:
        documents = []
        for task, record, number in self._plan[row]:
            crop = random.Random(f"{self.seed} {number} crop").randrange(self.codes.num_crops)
            codes = self.codes.flat(self._text[record][0], crop)
            documents.append(self._document(task, record, number, codes))
        return documents

    def describe(self) -> dict[str, Any]:
        """Counts for the log."""
        planned = [document for row in self._plan for document in row]
        tokens = sum(self._length(*document) for document in planned)
        return {
            "rows": len(self._plan),
            "question_documents": sum(task == "question" for task, _, _ in planned),
            "drawing_documents": sum(task == "drawing" for task, _, _ in planned),
            "padding_share": 1 - tokens / (len(self._plan) * self.row_length),
        }


def _pairs(questions: list[Question]) -> list[tuple[str, str]]:
    return [(question.question, question.answers[0]) for question in questions if question.answers]
