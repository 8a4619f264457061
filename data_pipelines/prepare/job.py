"""One run of `prepare` and its folder: what is asked for, and what earlier runs have left of it."""

import json
import os
import time
from typing import Any

from data_pipelines.manifest import DUPLICATES_NAME, MANIFEST_NAME, PARTS_NAME, QUARANTINE_NAME
from data_pipelines.prepare.part import SIDES
from data_pipelines.prepare.settings import PrepareSettings
from data_pipelines.records import SCHEMA_VERSION
from runtime.errors import UserError
from runtime.files import TEMPORARY, file_sha256
from runtime.storage import Storage

IN_PROGRESS_NAME = "in_progress.json"
STAGING_NAME = "parts"
POLL_SECONDS = 0.2
"""How often a rank looks for what the others have written."""


class Job:
    """What is asked for, and where: the folder to write, `storage`, and the parts in `staging`.

    `request` is what decides the result, which the manifest repeats; `folders` are those of
    manifests, by the side that each holds.
    """

    def __init__(self, settings: PrepareSettings) -> None:
        self.settings = settings
        self.storage = Storage(settings.out)
        self.staging = self.storage / STAGING_NAME
        self.request: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "sources": settings.sources,
            "shard_size": settings.shard_size,
            "drop_duplicates": settings.drop_duplicates,
            "test_fraction": settings.test_fraction,
        }
        self.folders = {SIDES[0]: self.storage}
        if settings.test_fraction:
            self.folders = {side: self.storage / side for side in SIDES}

    def is_finished(self, verify: bool = False) -> bool:
        """Whether the folder holds what is asked for; one that holds something else is refused.

        `verify` compares checksums too, where the folder is on disk.
        """
        location = self.storage.location
        if os.path.isfile(location):
            raise UserError(f"{location} is a file; give a folder with --out")
        ignored = (TEMPORARY, QUARANTINE_NAME, PARTS_NAME, DUPLICATES_NAME)
        names = [name for name in self.storage.names() if not name.endswith(ignored)]
        is_ours = any(self._read(self.storage, name) for name in (IN_PROGRESS_NAME, MANIFEST_NAME))
        if names and not is_ours and self._read(self.storage / SIDES[0], MANIFEST_NAME) is None:
            raise UserError(
                f"{location} is not empty and was not written by prepare; give another --out"
            )
        for folder in self.folders.values():
            manifest = self._read(folder, MANIFEST_NAME)
            if manifest is None:
                return False
            for shard in manifest["shards"]:  # one that was lost or damaged is made again
                name, sha256 = shard["file"], shard["sha256"]
                if folder.size(name) != shard["bytes"] or (
                    verify and not folder.is_remote and file_sha256(folder.path / name) != sha256
                ):
                    return False
        return True

    def claim(self, num_parts: int, rank: int) -> bool:
        """Mark the folder as being written; refuse to resume where the data have changed since.

        False where another process has done it all meanwhile.
        """
        self.storage.make()
        if not rank and self.storage.size(IN_PROGRESS_NAME) is None:
            claimed = json.dumps(self.request | {"num_parts": num_parts}, indent=2)
            self.storage.write(IN_PROGRESS_NAME, f"{claimed}\n".encode())
        while (found := self._read(self.storage, IN_PROGRESS_NAME)) is None:
            if self.is_finished():
                return False
            time.sleep(POLL_SECONDS)  # until rank 0 has begun
        if found.get("num_parts") != num_parts:
            begun = f"{self.storage.location} was begun"
            raise UserError(f"the sources have changed since {begun}; delete it and start anew")
        if not rank:
            for folder in self.folders.values():
                folder.delete(MANIFEST_NAME)
        self.staging.make()
        return True

    def release(self) -> None:
        """Delete what only a running `prepare` needs."""
        self.storage.delete(IN_PROGRESS_NAME)
        self.staging.delete_all()

    def _read(self, folder: Storage, name: str) -> dict[str, Any] | None:
        """What an earlier run has left in a file; None where there is none, or it goes meanwhile.

        A run that was asked for something else is refused.
        """
        try:
            found = json.loads(folder.read(name))
        except FileNotFoundError:
            return None
        except ValueError as error:
            hint = "delete the folder or give another --out"
            raise UserError(f"{folder.location}/{name} is not valid JSON; {hint}") from error
        if not isinstance(found, dict):
            found = {}
        for key, wanted in self.request.items():
            if found.get(key) != wanted:
                raise UserError(
                    f"{folder.location} was prepared with {key} {found.get(key)}, not {wanted}; "
                    "give another folder with --out, or delete it"
                )
        return found
