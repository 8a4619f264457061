"""The metrics of a run, one JSON object a line: `{"step": 20, "loss": 0.41}`."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runtime.errors import UserError
from runtime.json_lines import write_rows
from runtime.ranks import is_main_rank

FILE_NAME = "metrics.jsonl"


class MetricsLog:
    """Appends to `metrics.jsonl` in a run's folder; ranks other than 0 write nothing.

    Args:
        folder: the run's folder; it must exist.
        resume_step: the step of the checkpoint that a run resumes from. Lines after it are dropped,
            for those steps are about to be run again. None starts a new log in place of any old.
        tensorboard: also write TensorBoard events into `folder/tensorboard`.
    """

    def __init__(
        self, folder: str | Path, resume_step: int | None = None, tensorboard: bool = False
    ):
        self.path = Path(folder) / FILE_NAME
        self._file = None
        self._board = None
        if not is_main_rank():
            return
        kept = []
        if resume_step is not None and self.path.exists():
            kept = [line for line in read_metrics(self.path) if line["step"] <= resume_step]
        write_rows(self.path, kept)
        # Line-buffered: a killed run loses at most the line that it was writing.
        self._file = open(self.path, "a", buffering=1, encoding="utf-8")  # noqa: SIM115
        if tensorboard:
            with self._board_errors():
                self._board = _open_board(self.path.parent / "tensorboard", resume_step)

    def write(self, step: int, **values: Any) -> None:
        """Record values under their names; each is a number or anything `float` accepts."""
        if self._file is None:
            return
        # A diverged loss stays visible, as the NaN that Python's JSON can read.
        numbers = {name: v if isinstance(v, int) else float(v) for name, v in values.items()}
        try:
            self._file.write(json.dumps({"step": step, **numbers}) + "\n")
        except OSError as error:
            with contextlib.suppress(OSError):  # it would write the rest of the line
                self._file.close()
            self._file = None
            raise UserError(
                f"cannot write {self.path}: {error.strerror}; free some space, then run the same "
                "command again to resume"
            ) from error
        if self._board is not None:
            with self._board_errors():
                for name, number in numbers.items():
                    self._board.add_scalar(name, number, step)

    def write_image(self, step: int, name: str, image: Any) -> None:
        """Show an (H, W, 3) array of 8-bit levels on TensorBoard, where it is on."""
        if self._board is not None:
            with self._board_errors():
                self._board.add_image(name, image, step, dataformats="HWC")

    def write_text(self, step: int, name: str, text: str) -> None:
        """Show Markdown on TensorBoard, where it is on."""
        if self._board is not None:
            with self._board_errors():
                self._board.add_text(name, text, step)

    @contextlib.contextmanager
    def _board_errors(self) -> Iterator[None]:
        """Turn what TensorBoard cannot write into a sentence; the numbers are in the other file."""
        try:
            yield
        except OSError as error:
            self._board = None  # closing it would fail again
            raise UserError(
                f"cannot write {self.path.parent / 'tensorboard'}: {error.strerror or error}; free "
                "the place, or set tensorboard to false, then run the same command again to resume"
            ) from error

    def close(self) -> None:
        """Finish the files; writing after this does nothing."""
        file, board = self._file, self._board
        self._file = self._board = None
        if file is not None:
            file.close()
        if board is not None:
            with self._board_errors():
                board.close()

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The records of a metrics file, or of the one in a run's folder, in the order written.

    A half-written last line, left by a killed run, is passed over.

    Raises:
        UserError: if there is no such file, or a line before the last is broken.
    """
    path = Path(path, FILE_NAME) if os.path.isdir(path) else Path(path)
    if not path.is_file():
        raise UserError(f"no such metrics file: {path}")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise UserError(f"{path} is damaged: line {number} is not valid JSON") from error
    return records


def _open_board(folder: Path, resume_step: int | None) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter  # imports torch: only when asked for
    except ImportError as error:
        raise UserError(
            'TensorBoard is not installed: run `pip install "semhitok[tensorboard]"`, '
            "or switch the TensorBoard log off"
        ) from error
    purge_step = None if resume_step is None else resume_step + 1
    return SummaryWriter(str(folder), purge_step=purge_step)
