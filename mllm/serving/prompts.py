"""Lists of prompts: a text, a file, or standard input, read one prompt at a time.

    a red triangle                                                           text: one a line
    {"prompt": "a red triangle", "negative_prompt": "blue", "seed": 3, "id": "red"}   JSONL
    columns of the same names                                                parquet

Only `prompt` is required; other keys are ignored. A list may be longer than memory: it is read once
to check it, and again to draw it.
"""

import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import UserError
from runtime.files import parse_object

STANDARD_INPUT = "-"
SAFE_NAME = re.compile(r"[\w][\w.+-]{0,120}", re.ASCII)
JSON_NAMES = (".jsonl", ".ndjson", ".json")
EXAMPLE = '{"prompt": "..."}'
PARQUET_ROWS = 1000  # read at once


@dataclass(frozen=True)
class Prompt:
    """What to draw.

    Attributes:
        name: of its images' files: its id in the list, or its number.
        text: the prompt; "" draws without one.
        negative: what the image should not be; "" for nothing in particular.
        seed: of its first image; the others have the numbers after it.
    """

    name: str
    text: str
    negative: str = ""
    seed: int = 0


class PromptList:
    """Prompts of one text, or of a file; each iteration reads them anew.

    Args:
        path: text (one prompt a line, blank lines skipped), `.jsonl` or `.parquet`; "-" for
            standard input, which may hold text or JSONL.
        text: the only prompt, in place of a path.
        negative: of the prompts that bring none.
        seed: of the prompts that bring none.

    Raises:
        UserError: when read, if the file cannot be, or a line of it is no prompt.
    """

    def __init__(
        self,
        path: Path | str | None = None,
        text: str | None = None,
        negative: str = "",
        seed: int = 0,
    ):
        self.text, self.negative, self.seed = text, negative, seed
        self.label = "standard input" if str(path) == STANDARD_INPUT else str(path)
        self._spool: Any = None
        if str(path) == STANDARD_INPUT:
            # Standard input cannot be read twice.
            self._spool = tempfile.NamedTemporaryFile(prefix="semhitok-prompts-")  # noqa: SIM115
            shutil.copyfileobj(sys.stdin.buffer, self._spool)
            self._spool.flush()
            path = self._spool.name
        self.path = None if path is None else Path(path)

    def __iter__(self) -> Iterator[Prompt]:
        if self.path is None:
            yield Prompt("00000", self.text or "", self.negative, self.seed)
            return
        for number, (place, entry) in enumerate(self._entries()):
            yield self._prompt(number, place, entry)

    def check(self) -> int:
        """Read the whole list once.

        Returns:
            How many prompts it holds.

        Raises:
            UserError: if it holds none, or two have the same id.
        """
        names: set[str] = set()
        count = 0
        for prompt in self:
            count += 1
            if prompt.name in names:
                raise UserError(
                    f"{self.label} has the id {prompt.name!r} twice, and their images would "
                    f"overwrite each other: rename one."
                )
            names.add(prompt.name)
        if not count:
            raise UserError(f"{self.label} has no prompts: write one a line.")
        return count

    def _entries(self) -> Iterator[tuple[str, Any]]:
        """Where each prompt stands, for errors, and what stands there: a text or a mapping."""
        assert self.path is not None
        if self.path.suffix == ".parquet":
            yield from _parquet_rows(self.path)
            return
        # What comes through a pipe has no name to tell by: its first line does.
        is_json = None if self._spool is not None else self.path.suffix in JSON_NAMES
        try:
            with open(self.path, encoding="utf-8-sig") as file:  # Windows marks the beginning
                for number, line in enumerate(file, 1):
                    line = line.strip()
                    if not line:
                        continue
                    if is_json is None:
                        is_json = line.startswith("{")
                    place = f"line {number} of {self.label}"
                    yield place, parse_object(line, place, EXAMPLE) if is_json else line
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"The prompt file {self.label} cannot be read as UTF-8 text: {error}"
            ) from error

    def _prompt(self, number: int, place: str, entry: Any) -> Prompt:
        if isinstance(entry, str):
            return Prompt(f"{number:05d}", entry, self.negative, self.seed)
        text = entry.get("prompt")
        if not isinstance(text, str) or not text.strip():
            raise UserError(
                f"{place} has no prompt: write it as {EXAMPLE}, with at least one word."
            )
        negative = entry.get("negative_prompt")
        negative = self.negative if negative is None else negative
        seed = entry.get("seed")
        seed = self.seed if seed is None else seed
        if not isinstance(negative, str):
            raise UserError(f"{place} has a negative_prompt that is not a text: {negative!r}.")
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
            raise UserError(f"{place} has the seed {seed!r}: give a whole number, 0 or more.")
        name = entry.get("id")
        name = f"{number:05d}" if name is None else str(name)
        if not SAFE_NAME.fullmatch(name):
            raise UserError(
                f"{place} has the id {name!r}, which names no file: use letters, digits and "
                f"any of _ . + - (at most 120)."
            )
        return Prompt(name, text.strip(), negative.strip(), seed)


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict]]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            if "prompt" not in file.schema_arrow.names:
                raise UserError(f"{path} has no column `prompt`.")
            names = ("prompt", "negative_prompt", "seed", "id")
            columns = [name for name in names if name in file.schema_arrow.names]
            number = 0
            for batch in file.iter_batches(batch_size=PARQUET_ROWS, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number} of {path}", row
    except (OSError, UnicodeDecodeError, pyarrow.ArrowException) as error:
        raise UserError(f"{path} cannot be read as parquet: {error}") from error
