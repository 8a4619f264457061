"""`semhitok prepare`: raw data -> validated shards, the same bytes every time.

    semhitok prepare easy-vqa-train --out data/train

writes into the folder

    data-00000.parquet ...   accepted records, `shard_size` each, columns as in `records.py`
    quarantine.jsonl         rejected records: {"id", "source", "reason"} a line
    manifest.json            written last: a folder that has one is complete
    in_progress.json         only while running: what was asked for

A run that was killed is made anew from the start, since reading is cheap beside training; the
result is byte-identical. A finished folder is left as it is when the same is asked for again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.records import SCHEMA, SCHEMA_VERSION, Record, Reject, record_to_row
from data_pipelines.sources import open_source
from data_pipelines.validate import check_record
from semhitok.errors import UserError
from semhitok.progress import Progress
from semhitok.run import file_sha256, make_folder, read_json, write_json

MANIFEST_NAME = "manifest.json"
QUARANTINE_NAME = "quarantine.jsonl"
IN_PROGRESS_NAME = "in_progress.json"
COUNTED = ("records", "images", "captions", "questions", "conversations", "texts", "rejects")
"""Keys of the manifest's counts."""
UNFINISHED_PATTERN = ".*.json.*.tmp"
"""What `write_json` leaves when the process is killed in the middle of it."""


def prepare(
    sources: list[str], out: Path, shard_size: int = 2000, max_rejects: int | None = None
) -> Path:
    """Validate sources and write them as shards.

    Args:
        sources: names or folders as `sources.open_source` takes them; read one after another.
        out: the folder to write; new, empty, or of an earlier run with the same arguments.
        shard_size: records in a shard.
        max_rejects: stop when more records than this are rejected; None for no limit.

    Returns:
        `out`.

    Raises:
        UserError: if a source is unknown or has no usable record, two records share an id, too
            many are rejected, or `out` holds something else.
    """
    if not sources:
        raise UserError("there is nothing to prepare; name at least one source")
    if shard_size < 1:
        raise UserError(f"a shard holds at least 1 record, not {shard_size}")
    request = {"schema_version": SCHEMA_VERSION, "sources": sources, "shard_size": shard_size}
    if _is_finished(out, request):
        (out / IN_PROGRESS_NAME).unlink(missing_ok=True)
        return out
    opened = [open_source(name) for name in sources]  # before anything is written
    _claim(out, request)
    num_records = sum(source.num_records for source in opened)
    with (
        open(out / QUARANTINE_NAME, "w", encoding="utf-8") as quarantine,
        Progress(num_records, "prepare", "images") as progress,
    ):
        writer = _Writer(out, quarantine, shard_size, max_rejects)
        for source in opened:
            for item in source.records:
                writer.add(source.name, item)
                progress.update(1)
        writer.finish()
    manifest = {
        **request,
        "licences": [
            {"source": source.name, "licence": source.licence, "origin": source.origin}
            for source in opened
        ],
        **writer.summary(),
    }
    write_json(out / MANIFEST_NAME, manifest)
    (out / IN_PROGRESS_NAME).unlink()
    return out


def command(args: argparse.Namespace) -> Path:
    """Run `semhitok prepare` on parsed arguments; return the folder it wrote."""
    return prepare(
        sources=args.sources,
        out=Path(args.out),
        shard_size=args.shard_size,
        max_rejects=args.max_rejects,
    )


class _Writer:
    """Sorts records into shards and quarantine, and counts them."""

    def __init__(
        self, out: Path, quarantine: IO[str], shard_size: int, max_rejects: int | None
    ) -> None:
        self.out = out
        self.quarantine = quarantine
        self.shard_size = shard_size
        self.max_rejects = max_rejects
        self.counts = dict.fromkeys(COUNTED, 0)
        self.shards: list[dict[str, Any]] = []
        self._ids: set[str] = set()
        self._widths: list[int] = []  # [smallest, largest], empty before the first image
        self._heights: list[int] = []
        self._rows: list[dict[str, Any]] = []
        self._last_reason = ""

    def add(self, source: str, item: Record | Reject) -> None:
        """Accept or reject one record."""
        if isinstance(item, Reject):
            self._reject(source, item)
            return
        if item.record_id in self._ids:
            raise UserError(
                f"two records are called {item.record_id}; "
                "rename one, or prepare the sources into separate folders"
            )
        try:
            size = check_record(item)
        except (UserError, ValueError) as error:
            self._reject(source, Reject(item.record_id, str(error)))
            return
        self._ids.add(item.record_id)
        if size is not None:
            width, height = size
            self._widths = [min([*self._widths, width]), max([*self._widths, width])]
            self._heights = [min([*self._heights, height]), max([*self._heights, height])]
            self.counts["images"] += 1
        self.counts["records"] += 1
        self.counts["captions"] += len(item.captions)
        self.counts["questions"] += len(item.questions)
        self.counts["conversations"] += len(item.conversations)
        self.counts["texts"] += item.text is not None
        self._rows.append(record_to_row(item))
        if len(self._rows) == self.shard_size:
            self._write_shard()

    def finish(self) -> None:
        """Write what is left; refuse to call nothing a data set."""
        self._write_shard()
        if not self.shards:
            raise UserError(f"no record could be used, the last one {self._last_reason}")

    def summary(self) -> dict[str, Any]:
        """Return what the manifest says about the records."""
        return {
            "counts": self.counts,
            "image_width": _range(self._widths),
            "image_height": _range(self._heights),
            "shards": self.shards,
        }

    def _reject(self, source: str, reject: Reject) -> None:
        """Note a reject, and stop where there are too many."""
        # Escaped to ASCII: an id with a lone surrogate must not break the file.
        entry = {"id": reject.record_id, "source": source, "reason": reject.reason}
        self.quarantine.write(json.dumps(entry) + "\n")
        self.counts["rejects"] += 1
        self._last_reason = f"{reject.record_id!r}: {reject.reason}"
        if self.max_rejects is not None and self.counts["rejects"] > self.max_rejects:
            raise UserError(
                f"more than {self.max_rejects} records were rejected (see "
                f"{self.out / QUARANTINE_NAME}), the last one {self._last_reason}"
            )

    def _write_shard(self) -> None:
        """Write the rows at hand, if any, as the next shard."""
        if not self._rows:
            return
        path = self.out / f"data-{len(self.shards):05d}.parquet"
        # The images are compressed already; zstd is for the text.
        pq.write_table(pa.Table.from_pylist(self._rows, schema=SCHEMA), path, compression="zstd")
        self.shards.append(
            {
                "file": path.name,
                "rows": len(self._rows),
                "bytes": path.stat().st_size,
                "sha256": file_sha256(path),
            }
        )
        self._rows = []


def _range(bounds: list[int]) -> dict[str, int] | None:
    """A [smallest, largest] as the manifest has it; None where there is nothing to bound."""
    return {"min": bounds[0], "max": bounds[1]} if bounds else None


def _is_finished(out: Path, request: dict[str, Any]) -> bool:
    """Tell whether the folder already holds what is asked for.

    Raises:
        UserError: if it holds something else.
    """
    if not out.exists():
        return False
    if not out.is_dir():
        raise UserError(f"{out} is a file; give a folder with --out")
    for name in (MANIFEST_NAME, IN_PROGRESS_NAME):
        if (out / name).is_file():
            found = read_json(out / name)
            for key, wanted in request.items():
                if found.get(key) != wanted:
                    raise UserError(
                        f"{out} was prepared with {key} {found.get(key)}, not {wanted}; "
                        "give another folder with --out, or delete it"
                    )
            # A finished shard that was lost or cut is made again.
            return name == MANIFEST_NAME and all(_is_whole(out, s) for s in found["shards"])
    if any(not path.match(UNFINISHED_PATTERN) for path in out.iterdir()):
        raise UserError(f"{out} is not empty and was not written by prepare; give another --out")
    return False


def _is_whole(out: Path, shard: dict[str, Any]) -> bool:
    """Tell whether a shard of the manifest is there at its size."""
    path = out / str(shard["file"])
    return path.is_file() and path.stat().st_size == shard["bytes"]


def _claim(out: Path, request: dict[str, Any]) -> None:
    """Mark the folder as being written and clear what an interrupted run left."""
    make_folder(out)
    write_json(out / IN_PROGRESS_NAME, request)
    (out / MANIFEST_NAME).unlink(missing_ok=True)
    for pattern in ("data-*.parquet", UNFINISHED_PATTERN):
        for path in out.glob(pattern):
            path.unlink()
