"""Extracted codes on disk: parquet shards of two compact planes, and a manifest.

Columns: record_id string; semantic, pixel: binary, N little-endian unsigned integers of the
manifest's `semantic_dtype` and `pixel_dtype`, the smallest that hold K and M.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from semhitok.errors import UserError
from semhitok.run import read_json

SCHEMA = pa.schema([("record_id", pa.string()), ("semantic", pa.binary()), ("pixel", pa.binary())])
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class CodesManifest:
    """What a folder of codes says of itself."""

    tokenizer_fingerprint: str
    data_fingerprint: str
    num_records: int
    num_image_positions: int
    num_semantic_codes: int
    num_pixel_codes: int
    shards: list[dict]
    schema_version: int = SCHEMA_VERSION

    @property
    def semantic_dtype(self) -> np.dtype:
        return np.min_scalar_type(self.num_semantic_codes - 1)

    @property
    def pixel_dtype(self) -> np.dtype:
        return np.min_scalar_type(self.num_pixel_codes - 1)

    def to_dict(self) -> dict:
        return asdict(self) | {
            "semantic_dtype": self.semantic_dtype.name,
            "pixel_dtype": self.pixel_dtype.name,
        }


def read_manifest(folder: Path) -> CodesManifest:
    """The manifest of a folder of codes."""
    path = folder / "manifest.json"
    if not path.is_file():
        raise UserError(
            f"{folder} holds no codes (no manifest.json): run `semhitok extract-codes` to its end."
        )
    fields = read_json(path)
    if fields.get("schema_version") != SCHEMA_VERSION or "tokenizer_fingerprint" not in fields:
        raise UserError(
            f"{path} is not a manifest of codes of version {SCHEMA_VERSION}: extract them again."
        )
    known = CodesManifest.__dataclass_fields__
    return CodesManifest(**{key: value for key, value in fields.items() if key in known})


def write_shard(
    path: Path, manifest: CodesManifest, ids: list[str], semantic: np.ndarray, pixel: np.ndarray
) -> None:
    """Write (R, N) integer codes of R records."""
    rows = {
        "record_id": ids,
        "semantic": [row.tobytes() for row in semantic.astype(manifest.semantic_dtype)],
        "pixel": [row.tobytes() for row in pixel.astype(manifest.pixel_dtype)],
    }
    pq.write_table(pa.table(rows, schema=SCHEMA), path)


class CodeStore:
    """Codes by record id, memory-mapped.

    Args:
        folder: as written by `extract-codes`.
    """

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        tables = []
        for shard in self.manifest.shards:
            path = self.folder / shard["file"]
            if not path.is_file():
                raise UserError(f"The shard {path} is missing: extract the codes again.")
            try:
                tables.append(pq.read_table(path, schema=SCHEMA, memory_map=True))
            except (pa.ArrowException, OSError) as error:
                raise UserError(
                    f"The shard {path} is damaged: delete it and extract the codes again."
                ) from error
        self._table = pa.concat_tables(tables)
        ids = self._table.column("record_id").to_pylist()
        self._row = {record_id: row for row, record_id in enumerate(ids)}

    def __len__(self) -> int:
        return len(self._row)

    def __contains__(self, record_id: str) -> bool:
        return record_id in self._row

    def planes(self, record_id: str) -> tuple[np.ndarray, np.ndarray]:
        """Semantic and pixel codes of one record, each (N,) int64."""
        row = self._row.get(record_id)
        if row is None:
            raise UserError(
                f"{self.folder} has no codes for the record {record_id!r}: extract codes from the "
                f"same prepared data."
            )
        semantic = np.frombuffer(
            self._table.column("semantic")[row].as_py(), self.manifest.semantic_dtype
        )
        pixel = np.frombuffer(self._table.column("pixel")[row].as_py(), self.manifest.pixel_dtype)
        return semantic.astype(np.int64), pixel.astype(np.int64)

    def flat(self, record_id: str) -> np.ndarray:
        """Flat image codes (N,) int64 of one record."""
        semantic, pixel = self.planes(record_id)
        return semantic * self.manifest.num_pixel_codes + pixel
