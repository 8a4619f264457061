"""Answers on disk, so that a killed evaluation loses at most the batches it was at.

A rank appends to a file of its own, a whole batch at a time. A line cut off by a kill is ignored,
and cut away before its rank appends again; its question is then asked anew.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import UserError
from runtime.files import read_json, write_json
from runtime.json_lines import append_rows, cut_torn_line, whole_lines
from runtime.run_folder import make_folder

FOLDER = "answers"


@dataclass(frozen=True)
class SavedAnswer:
    """What the model said to one question."""

    prediction: str
    """Its text, or the letter of the likeliest option."""
    option_scores: tuple[float, ...] | None = None
    """Mean log-likelihood a token of each option, where there was a choice."""


class AnswerStore:
    """The answers in the folder of an evaluation."""

    def __init__(self, out_dir: Path):
        self.out_dir = out_dir
        self.folder = out_dir / FOLDER

    def open(self, identity: dict[str, Any]) -> None:
        """Make the folder, or resume answers of the same model, questions and settings.

        Raises:
            UserError: if it holds answers of another evaluation.
        """
        mark = self.folder / "evaluation.json"
        if not mark.is_file():
            make_folder(self.folder)
            write_json(mark, identity)
            return
        before = read_json(mark)
        if other := [key for key in identity if before.get(key) != identity[key]]:
            raise UserError(
                f"{self.out_dir} holds answers of another evaluation ({', '.join(other)} differ"
                f"{'s' if len(other) == 1 else ''}); give another --out, or delete {self.folder}"
            )

    def read(self) -> dict[str, SavedAnswer]:
        """All answers so far, of every rank, by question id.

        Raises:
            UserError: if a question was answered twice, or a line in the middle is damaged.
        """
        answers: dict[str, SavedAnswer] = {}
        for path in sorted(self.folder.glob("rank-*.jsonl")):
            for number, line in enumerate(whole_lines(path), start=1):
                try:
                    row = json.loads(line)
                    key, scores = row["question_id"], row.get("option_scores")
                    answer = SavedAnswer(row["prediction"], scores and tuple(scores))
                except (ValueError, KeyError, TypeError) as error:
                    raise UserError(
                        f"line {number} of {path} is damaged; delete {path} to have its questions "
                        "asked again"
                    ) from error
                if key in answers:
                    raise UserError(
                        f"question {key!r} is answered twice in {self.folder}; delete that folder "
                        "and evaluate again"
                    )
                answers[key] = answer
        return answers

    def append(self, rank: int, answers: dict[str, SavedAnswer]) -> None:
        """Add a batch to the file of a rank; it is on the disk when this returns."""
        rows = (
            {"question_id": key, "prediction": answer.prediction}
            | ({"option_scores": answer.option_scores} if answer.option_scores else {})
            for key, answer in answers.items()
        )
        append_rows(self._file(rank), rows)

    def cut_torn_line(self, rank: int) -> None:
        """Cut away what a killed run of this rank left of a line."""
        cut_torn_line(self._file(rank))

    def _file(self, rank: int) -> Path:
        return self.folder / f"rank-{rank:05d}.jsonl"
