"""The manifest of prepared data: `prepare` writes it last, and everything else reads it first."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data_pipelines.records import SCHEMA_VERSION
from runtime.errors import UserError
from runtime.files import file_sha256, read_json
from runtime.storage import check_listed

MANIFEST_NAME = "manifest.json"
QUARANTINE_NAME = "quarantine.jsonl"
PARTS_NAME = "rejected_parts.jsonl"
DUPLICATES_NAME = "duplicates.jsonl"
WRITTEN_BESIDE = (MANIFEST_NAME, QUARANTINE_NAME, PARTS_NAME, DUPLICATES_NAME)
"""What `prepare` writes beside its shards."""
AGAIN = "run semhitok prepare again"


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a prepared folder, whose shards are there.

    Refused are a folder without one, another schema, and shards missing or not of their sizes.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise UserError(
            f"{folder} holds no prepared data ({MANIFEST_NAME}); run: semhitok prepare SOURCE "
            f"--out {folder}"
        )
    manifest = read_json(path)
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{folder} was prepared with schema version {version}, this program reads "
            f"{SCHEMA_VERSION}; delete it and {AGAIN}"
        )
    if not (
        _has(manifest.get("counts"), "records", "images")
        and isinstance(manifest.get("shards"), list)
        and all(_has(shard, "file", "rows", "bytes", "sha256") for shard in manifest["shards"])
    ):
        raise UserError(
            f"{path} is no manifest of prepared data; name a folder that semhitok prepare wrote"
        )
    check_listed(folder, [shard["file"] for shard in manifest["shards"]])
    for shard in manifest["shards"]:
        path, num_bytes = folder / shard["file"], shard["bytes"]
        if not path.is_file():
            raise UserError(f"the shard {path} is missing; {AGAIN}")
        if (size := path.stat().st_size) != num_bytes:
            sizes = f"{size:,} bytes where the manifest says {num_bytes:,}"
            raise UserError(f"the shard {path} has {sizes}; {AGAIN}")
    return dict(manifest)


def check_content(folder: Path, manifest: dict[str, Any]) -> None:
    """Compare every shard with its checksum; a `UserError` names the first that has changed."""
    for shard in manifest["shards"]:
        if file_sha256(folder / shard["file"]) != shard["sha256"]:
            path = folder / shard["file"]
            raise UserError(f"the shard {path} is damaged (its checksum differs); {AGAIN}")


def reason_kind(reason: str) -> str:
    """The reason of a reject without the names and numbers that differ from record to record."""
    without = re.sub(r" ?\(.*\)|'[^']*'|\S+\.\w{2,4}\b", "", reason)
    return " ".join(re.sub(r"\d[\d,]*", "N", without).split())


def count_reasons(reasons: Iterable[str]) -> dict[str, int]:
    """How many records were rejected for which kind of reason, the most frequent first."""
    kinds = Counter(map(reason_kind, reasons))
    return dict(sorted(kinds.items(), key=lambda entry: (-entry[1], entry[0])))


def _has(value: Any, *keys: str) -> bool:
    return isinstance(value, dict) and all(key in value for key in keys)
