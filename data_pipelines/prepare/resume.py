"""What earlier runs have left in a folder: nothing, parts, or all that is asked for."""

import json
import os
import sys
import time
from typing import Any

from data_pipelines.manifest import MANIFEST_NAME
from data_pipelines.prepare.finish import split_folders
from data_pipelines.prepare.part import Account, Part, read_account
from runtime.errors import UserError
from runtime.files import TEMPORARY
from runtime.storage import Storage

IN_PROGRESS_NAME = "in_progress.json"
STAGING_NAME = "parts"
POLL_SECONDS = 0.2
"""How often a rank looks for what the others have written."""


def is_finished(storage: Storage, request: dict[str, Any]) -> bool:
    """Whether the folder already holds what is asked for.

    Raises:
        UserError: if it holds something else.
    """
    if os.path.isfile(storage.location):
        raise UserError(f"{storage.location} is a file; give a folder with --out")
    names = [name for name in storage.names() if not name.endswith(TEMPORARY)]
    if IN_PROGRESS_NAME in names:
        _read_request(storage, IN_PROGRESS_NAME, request)
    if MANIFEST_NAME in names:
        _read_request(storage, MANIFEST_NAME, request)
    elif (
        names
        and IN_PROGRESS_NAME not in names
        and _read_request(storage / "train", MANIFEST_NAME, request) is None
    ):
        raise UserError(
            f"{storage.location} is not empty and was not written by prepare; give another --out"
        )
    for folder, _ in split_folders(storage, request["test_fraction"]):
        manifest = _read_request(folder, MANIFEST_NAME, request)
        # A finished shard that was lost or cut is made again.
        if manifest is None or any(
            folder.size(shard["file"]) != shard["bytes"] for shard in manifest["shards"]
        ):
            return False
    return True


def claim(storage: Storage, request: dict[str, Any], num_parts: int, rank: int) -> bool:
    """Mark the folder as being written; refuse to resume where the data have changed since.

    Returns:
        Whether there is something to do; False where another rank has finished it all meanwhile.
    """
    storage.make()
    if not rank and storage.size(IN_PROGRESS_NAME) is None:
        claimed = json.dumps(request | {"num_parts": num_parts}, indent=2)
        storage.write(IN_PROGRESS_NAME, f"{claimed}\n".encode())
    while (found := _read_request(storage, IN_PROGRESS_NAME, {})) is None:
        if is_finished(storage, request):
            return False
        time.sleep(POLL_SECONDS)  # until rank 0 has begun
    if found.get("num_parts") != num_parts:
        raise UserError(
            f"the sources have changed since {storage.location} was begun; delete it and start anew"
        )
    if not rank:
        for folder, _ in split_folders(storage, request["test_fraction"]):
            folder.delete(MANIFEST_NAME)
    return True


def release(storage: Storage) -> None:
    """Delete what only a running `prepare` needs."""
    storage.delete(IN_PROGRESS_NAME)
    (storage / STAGING_NAME).delete_all()


def wait_for(part: Part, staging: Storage) -> Account:
    """The account of another rank's part, when it is there."""
    told = False
    while (account := read_account(part, staging)) is None:
        if not told:
            print(f"waiting for the other ranks' parts in {staging.location}", file=sys.stderr)
            told = True
        time.sleep(POLL_SECONDS)
    return account


def _read_request(storage: Storage, name: str, request: dict[str, Any]) -> dict[str, Any] | None:
    """Read what an earlier run was asked for, and refuse another request.

    Returns:
        All that the file holds; None where there is no such file. (Another rank may delete it at
        any moment.)
    """
    try:
        found: dict[str, Any] = json.loads(storage.read(name))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(
            f"{storage.location}/{name} is not valid JSON; delete the folder or give another --out"
        ) from error
    for key, wanted in request.items():
        if found.get(key) != wanted:
            raise UserError(
                f"{storage.location} was prepared with {key} {found.get(key)}, not {wanted}; "
                "give another folder with --out, or delete it"
            )
    return found
