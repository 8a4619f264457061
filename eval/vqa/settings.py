"""Settings of `semhitok eval vqa`."""

from pathlib import Path
from typing import Literal

from pydantic import PositiveInt, model_validator

from runtime.settings import BatchSize, Settings
from runtime.value_types import ExistingFolder, ExistingPath, ModelFolder, OutputFolder, Text

AnswerBy = Literal["generation", "letters", "texts"]
BENCHMARKS = (
    "easy-vqa", "vqav2", "textvqa", "gqa", "pope", "mme", "seedbench", "mmbench", "mmmu",
)  # fmt: skip


class VQASettings(Settings):
    """Which questions are asked, how, and by which rule; saved beside the results."""

    model: ModelFolder | None = None
    """The language model."""
    predictions: ExistingPath | None = None
    """Answers to score without a model: of an earlier run, or id and answer of any system."""
    task: Text = "easy-vqa"
    """Easy-vqa, vqav2, textvqa, gqa, pope, mme, seedbench, mmbench or mmmu; or JSONL with image,
    question, answers."""
    data: Text | None = None
    """Prepared data, the benchmark's file, or a hub name (default: the usual copy)."""
    images: ExistingFolder | None = None
    """Where the images are that a file names (default: beside it)."""
    split: Text | None = None
    """Split of a data set on the hub."""
    scoring: Literal["exact", "soft", "option"] | None = None
    """Rule for a FILE of one's own (default: option where there are options, else exact)."""
    answer_by: AnswerBy = "generation"
    """Written answers, or the likeliest option by its letter or text."""
    circular: bool = False
    """Ask each question once for every rotation of its options."""
    instruction: str | None = None
    """Put after each question (default: the task's own)."""
    max_new_tokens: PositiveInt | None = None
    """Longest answer (default: the task's own)."""
    train_data: ExistingFolder | None = None
    """Prepared data whose answers make the question-only baseline (default: `train` beside the
    data, else the questions themselves)."""
    out: OutputFolder | None = None
    """Folder to write (default, with --predictions: scored-TASK beside them)."""
    batch_size: BatchSize = 64
    """Questions at once."""

    @property
    def is_own_file(self) -> bool:
        """Whether `task` names a file of one's own questions; a benchmark's name is never one."""
        named = self.task in BENCHMARKS
        return not named and (self.task.endswith(".jsonl") or Path(self.task).is_file())

    @model_validator(mode="after")
    def _who_answers(self) -> "VQASettings":
        if (self.model is None) == (self.predictions is None):
            raise ValueError("give either --model to ask, or --predictions to score")
        if self.model is not None and self.out is None:
            raise ValueError("the answers of a model need --out, the folder to write")
        if self.circular and self.model is None:
            raise ValueError("--circular asks a model: give --model and --data")
        if self.is_own_file and self.data is not None:
            raise ValueError(f"--task names the file {self.task}, so --data cannot name another")
        if self.is_own_file and not Path(self.task).is_file():
            raise ValueError(f"no such file: {self.task}")
        if self.scoring and not self.is_own_file:
            raise ValueError("--scoring is for files of one's own questions, named with --task")
        return self
