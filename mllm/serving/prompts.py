"""Lists of prompts: texts, a file, or standard input, read one prompt at a time.

    a red triangle                                                           text: one a line
    {"prompt": "a red triangle", "negative_prompt": "blue", "seed": 3, "id": "red"}   JSONL
    columns of the same names                                                parquet
    the first caption of each record                                         a prepared folder

Only `prompt` is required; other keys are named and not read. A list may be longer than memory: it
is read once to check it, and again to draw it.
"""

import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from data_pipelines.loading.dataset import PreparedDataset
from mllm.drawing.requests import ImageRequest
from runtime.errors import UserError
from runtime.json_lines import note_left_out, parse_object, unread_fields

STANDARD_INPUT = "-"
SAFE_NAME = re.compile(r"[\w][\w.+-]{0,120}", re.ASCII)
JSON_NAMES = (".jsonl", ".ndjson", ".json")
EXAMPLE = '{"prompt": "..."}'
FIELDS = ("prompt", "negative_prompt", "seed", "id")
MEANT = {"negative": "negative_prompt", "text": "prompt", "caption": "prompt"}
"""Fields that are not read, and those that they may have meant."""
PARQUET_ROWS = 1000  # read at once


class PromptList:
    """Requests for the first image of each prompt; each iteration reads them anew.

    Args:
        path: text (one prompt a line, blank lines skipped), `.jsonl`, `.parquet`, or a folder of
            `semhitok prepare`; "-" for standard input, which may hold text or JSONL.
        texts: the prompts, in place of a path; without any, one image is drawn without a prompt.
        negative, seed: those of the prompts that bring none.
        limit: prompts to take, the first ones; None for all.

    Raises:
        UserError: when read, if the file cannot be, or a line of it is no prompt.
    """

    def __init__(
        self,
        path: Path | str | None = None,
        texts: Sequence[str] = (),
        negative: str = "",
        seed: int = 0,
        limit: int | None = None,
    ):
        self.texts, self.negative, self.seed, self.limit = texts or [""], negative, seed, limit
        self.label = "standard input" if str(path) == STANDARD_INPUT else str(path)
        self._spool: Any = None
        if str(path) == STANDARD_INPUT:
            # Standard input cannot be read twice.
            self._spool = tempfile.NamedTemporaryFile(prefix="semhitok-prompts-")  # noqa: SIM115
            shutil.copyfileobj(sys.stdin.buffer, self._spool)
            self._spool.flush()
            path = self._spool.name
        self.path = None if path is None else Path(path)

    def __iter__(self) -> Iterator[ImageRequest]:
        for number, (place, entry) in enumerate(islice(self._entries(), self.limit)):
            yield self._request(number, place, entry)

    def check(self) -> int:
        """Read the whole list once, and return how many prompts it holds.

        Fields that are not read are named on stderr.

        Raises:
            UserError: if it holds none, or two have the same id.
        """
        ids: set[str] = set()
        unread = Counter[str]()
        for count, (place, entry) in enumerate(islice(self._entries(), self.limit)):
            request = self._request(count, place, entry)
            unread.update(() if isinstance(entry, str) else entry.keys() - {*FIELDS})
            if request.id in ids:
                raise UserError(
                    f"{self.label} has the id {request.id!r} twice, and their images would "
                    f"overwrite each other: rename one."
                )
            ids.add(request.id)
        if not ids:
            raise UserError(f"{self.label} has no prompts: write one a line.")
        note_left_out(self.label, unread_fields(unread, FIELDS, MEANT))
        return len(ids)

    def _entries(self) -> Iterator[tuple[str, Any]]:
        """Where each prompt stands, for errors, and what stands there: a text or a mapping."""
        if self.path is None:
            yield from (("--prompt", text) for text in self.texts)
        elif self.path.is_dir():
            yield from _captions(self.path)
        elif self.path.suffix == ".parquet":
            yield from _parquet_rows(self.path)
        else:
            yield from self._lines(self.path)

    def _lines(self, path: Path) -> Iterator[tuple[str, Any]]:
        # What comes through a pipe has no name to tell by: its first line does.
        is_json = None if self._spool is not None else path.suffix in JSON_NAMES
        try:
            with open(path, encoding="utf-8-sig", newline="\n") as file:  # Windows marks the start
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

    def _request(self, number: int, place: str, entry: Any) -> ImageRequest:
        if isinstance(entry, str):
            return ImageRequest(entry, self.seed, self.negative, id=f"{number:05d}")
        given = {"negative_prompt": self.negative, "seed": self.seed, "id": f"{number:05d}"}
        given |= {key: value for key, value in entry.items() if value is not None}
        text, negative, seed = given.get("prompt"), given["negative_prompt"], given["seed"]
        if not isinstance(text, str) or not text.strip():
            raise UserError(
                f"{place} has no prompt: write it as {EXAMPLE}, with at least one word."
            )
        if not isinstance(negative, str):
            raise UserError(f"{place} has a negative_prompt that is not a text: {negative!r}.")
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
            raise UserError(f"{place} has the seed {seed!r}: give a whole number, 0 or more.")
        name = str(given["id"])
        if not SAFE_NAME.fullmatch(name):
            raise UserError(
                f"{place} has the id {name!r}, which names no file: use letters, digits and "
                f"any of _ . + - (at most 120)."
            )
        return ImageRequest(text.strip(), seed, negative.strip(), id=name)


def _captions(folder: Path) -> Iterator[tuple[str, str]]:
    for record in PreparedDataset(folder).texts():
        if record.captions:
            yield f"the record {record.record_id} of {folder}", record.captions[0]


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict]]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            if "prompt" not in file.schema_arrow.names:
                raise UserError(f"{path} has no column `prompt`.")
            columns = [name for name in FIELDS if name in file.schema_arrow.names]
            unread = dict.fromkeys({*file.schema_arrow.names} - {*FIELDS})
            batches = file.iter_batches(batch_size=PARQUET_ROWS, columns=columns)
            rows = (row for batch in batches for row in batch.to_pylist())
            for number, row in enumerate(rows, 1):
                yield f"row {number} of {path}", row | unread
    except (OSError, UnicodeDecodeError, pyarrow.ArrowException) as error:
        raise UserError(f"{path} cannot be read as parquet: {error}") from error
