"""Which shards an extraction consists of, which are there already, and whose they are."""

import json
import time
from collections.abc import Iterable
from typing import Any

from runtime.errors import UserError
from runtime.files import TEMPORARY, read_json
from runtime.storage import Storage
from tokenizer.extraction.code_shards import CodesManifest, finished_shard

POLL_SECONDS = 0.5  # how often the first task of a SLURM array looks for the others' shards
CLAIM = "extraction.json"
"""Says whose shards a folder holds, from before the first one is written."""
Entries = dict[int, dict[str, Any]]
"""What the manifest holds of finished shards, by their number."""


class ShardPlan:
    """The shards of one extraction in their folder, of `shard_size` records each.

    `manifest` has no shards yet; `ids` are those of all records, in order.
    """

    def __init__(self, store: Storage, manifest: CodesManifest, shard_size: int, ids: list[str]):
        self.store = store
        self.manifest = manifest
        self.shard_size = shard_size
        self.all_ids = ids

    def __len__(self) -> int:
        return -(-len(self.all_ids) // self.shard_size)

    def name(self, number: int) -> str:
        return f"codes-{number:05d}.arrow"

    def rows(self, number: int) -> range:
        """Records of a shard."""
        start = number * self.shard_size
        return range(start, min(start + self.shard_size, len(self.all_ids)))

    def ids(self, number: int) -> list[str]:
        """Ids of a shard's records."""
        return self.all_ids[number * self.shard_size : (number + 1) * self.shard_size]

    def identity(self) -> dict[str, Any]:
        """What must agree for shards to be of one extraction."""
        return {
            "format_version": self.manifest.schema_version,
            "tokenizer_fingerprint": self.manifest.tokenizer_fingerprint,
            "data_fingerprint": self.manifest.data_fingerprint,
            "shard_size": self.shard_size,
            "number_of_crops": self.manifest.num_crops,
        }

    def claim(self) -> Entries:
        """Make the folder this extraction's; return the shards that an earlier run has finished.

        A folder with codes of another tokenizer, data set or format is refused.
        """
        self.store.make()
        names = self.store.names()
        if CLAIM in names:
            self.refuse_other_claim()
        elif any(name.startswith("codes-") for name in names):
            where = self.store.location
            raise UserError(f"{where} holds shards of unknown origin; give another --out")
        else:
            self._write_json(CLAIM, self.identity())
        return self._finished(range(len(self)))

    def refuse_other_claim(self) -> None:
        """Refuse a folder that is, or has meanwhile become, that of another extraction."""
        with self.store.reading(CLAIM) as path:
            theirs, mine = read_json(path), self.identity()
        changed = [key.replace("_", " ") for key in mine if theirs.get(key) != mine[key]]
        if changed:
            raise UserError(
                f"{self.store.location} holds codes of another {' and '.join(changed)}; give "
                f"another --out, or delete that folder"
            )

    def wait_for(self, numbers: list[int]) -> Entries:
        """Wait until other tasks of a SLURM array have finished shards."""
        entries: Entries = {}
        while len(entries) < len(numbers):
            entries |= self._finished(number for number in numbers if number not in entries)
            if len(entries) < len(numbers):
                time.sleep(POLL_SECONDS)
        return entries

    def finish(self, entries: Entries) -> None:
        """Write the manifest, with which the folder is whole."""
        self.manifest.shards.extend(entries[number] for number in sorted(entries))
        for name in self.store.names():
            if name.endswith(TEMPORARY):  # of a killed run; all that is listed is whole
                self.store.delete(name)
        self._write_json("manifest.json", self.manifest.to_dict())

    def _finished(self, numbers: Iterable[int]) -> Entries:
        found = {
            number: finished_shard(self.store, self.name(number), self.manifest, self.ids(number))
            for number in numbers
        }
        return {number: entry for number, entry in found.items() if entry is not None}

    def _write_json(self, name: str, values: dict[str, Any]) -> None:
        text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
        self.store.write(name, text.encode())
