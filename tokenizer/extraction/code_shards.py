"""Extracted codes on disk: Arrow shards of two bit-packed planes, and a manifest.

A row is one crop of one record; the crops of a record are neighbours, records in the order of their
data. Columns: record_id string; crop uint16; semantic and pixel: fixed-size binary, N codes of the
manifest's `semantic_bits` and `pixel_bits` each (see bit_packing.py). Arrow, not parquet, since it
is read in place: memory-mapped, the processes of a node share its pages.

Shapes: R records, C crops of each, N image positions.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from runtime.errors import UserError
from runtime.files import file_sha256, fingerprint, read_json
from runtime.storage import Storage, is_remote, local_copy
from tokenizer.extraction.bit_packing import bit_width, pack, packed_size, unpack

SCHEMA_VERSION = 2
HINT = "run `semhitok extract-codes` again with the same arguments, which repairs it"
_CONTENT = b"content_sha256"


@dataclass(frozen=True)
class CodesManifest:
    """What a folder of codes says of itself.

    Attributes:
        tokenizer_fingerprint: see `tokenizer.model.fingerprint`.
        data_fingerprint: of the prepared folder.
        num_records, num_crops, num_image_positions: R, C, N.
        num_semantic_codes, num_pixel_codes: K, M.
        shards: in order, each with `file`, `rows`, `bytes` and `sha256`.
    """

    tokenizer_fingerprint: str
    data_fingerprint: str
    num_records: int
    num_crops: int
    num_image_positions: int
    num_semantic_codes: int
    num_pixel_codes: int
    shards: list[dict]
    schema_version: int = SCHEMA_VERSION

    @property
    def semantic_bits(self) -> int:
        return bit_width(self.num_semantic_codes)

    @property
    def pixel_bits(self) -> int:
        return bit_width(self.num_pixel_codes)

    @property
    def schema(self) -> pa.Schema:
        """Columns of a shard."""
        bits = {"semantic": self.semantic_bits, "pixel": self.pixel_bits}
        length = self.num_image_positions
        planes = {name: pa.binary(packed_size(length, width)) for name, width in bits.items()}
        return pa.schema({"record_id": pa.string(), "crop": pa.uint16(), **planes})

    def to_dict(self) -> dict:
        bits = {"semantic_bits": self.semantic_bits, "pixel_bits": self.pixel_bits}
        return asdict(self) | bits


def read_manifest(folder: Path) -> CodesManifest:
    """The manifest of a folder; a `UserError` if it is missing, broken or of another version."""
    path = folder / "manifest.json"
    if not path.is_file():
        raise UserError(
            f"{folder} holds no codes (no manifest.json); run `semhitok extract-codes` to its end"
        )
    fields = read_json(path)
    if not isinstance(fields, dict) or "tokenizer_fingerprint" not in fields:
        raise UserError(
            f"{path} is not a manifest of codes; name a folder that `semhitok extract-codes` wrote"
        )
    version = fields.get("schema_version")
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{folder} holds codes in the format of version {version}, this program reads version "
            f"{SCHEMA_VERSION}; extract them again into another folder"
        )
    known = CodesManifest.__dataclass_fields__
    try:
        return CodesManifest(**{key: value for key, value in fields.items() if key in known})
    except TypeError as error:
        raise UserError(f"{path} is incomplete; {HINT}") from error


def write_shard(
    store: Storage,
    name: str,
    manifest: CodesManifest,
    ids: list[str],
    semantic: np.ndarray,
    pixel: np.ndarray,
) -> dict[str, Any]:
    """Write (R, C, N) codes of R records, whole or not at all; return the manifest's entry."""
    rows = len(ids) * manifest.num_crops
    columns = [
        pa.array(np.repeat(np.array(ids, dtype=object), manifest.num_crops), pa.string()),
        pa.array(np.tile(np.arange(manifest.num_crops, dtype=np.uint16), len(ids))),
    ]
    planes = {
        "semantic": pack(semantic, manifest.semantic_bits),
        "pixel": pack(pixel, manifest.pixel_bits),
    }
    for plane, packed in planes.items():
        kind, data = manifest.schema.field(plane).type, pa.py_buffer(packed.tobytes())
        columns.append(pa.FixedSizeBinaryArray.from_buffers(kind, rows, [None, data]))
    table = pa.table(columns, schema=manifest.schema)
    table = table.replace_schema_metadata({_CONTENT: _content_sha256(table)})
    with store.writing(name) as path:
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table)
        return _entry(path, name, rows)


def finished_shard(
    store: Storage, name: str, manifest: CodesManifest, ids: list[str]
) -> dict[str, Any] | None:
    """The entry of a shard of these records that an earlier run has left whole, else None."""
    if store.size(name) is None:
        return None
    expected = list(np.repeat(ids, manifest.num_crops))
    with store.reading(name) as path:
        try:
            table = _read(path, manifest)
        except UserError:
            return None
        checksum = (table.schema.metadata or {}).get(_CONTENT)
        if table.column("record_id").to_pylist() != expected or checksum != _content_sha256(table):
            return None
        return _entry(path, name, table.num_rows)


def _entry(path: Path, name: str, rows: int) -> dict[str, Any]:
    """What the manifest holds of a shard."""
    size = path.stat().st_size
    return {"file": name, "rows": rows, "bytes": size, "sha256": file_sha256(path)}


class CodeStore:
    """Codes by record id, memory-mapped.

    Args:
        folder: as written by `extract-codes`; one in an object store is fetched first.

    Raises:
        UserError: if the manifest is missing or of another version, or a shard is missing, cut
            short or unreadable. Only `verify` reads every byte.
    """

    def __init__(self, folder: Path | str):
        remote = is_remote(folder)
        self.folder = local_copy(str(folder), "manifest.json") if remote else Path(folder)
        self.manifest = read_manifest(self.folder)
        self._planes: list[tuple[np.ndarray, np.ndarray]] = []  # of each shard, (rows, bytes) uint8
        self._position: dict[str, tuple[int, int]] = {}  # record id → shard, its row of crop 0
        for number, shard in enumerate(self.manifest.shards):
            table = self._open(shard)
            self._planes.append((_plane(table, "semantic"), _plane(table, "pixel")))
            ids = table.column("record_id").to_pylist()[:: self.num_crops]
            self._position |= {name: (number, i * self.num_crops) for i, name in enumerate(ids)}

    @property
    def num_crops(self) -> int:
        """C, crops of each record."""
        return self.manifest.num_crops

    def __len__(self) -> int:
        """R, records."""
        return len(self._position)

    def __contains__(self, record_id: str) -> bool:
        return record_id in self._position

    def planes(self, record_id: str, crop: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Semantic and pixel codes (N,) int64 of a record's crop in [0, C); 0 is the centre."""
        if record_id not in self:
            raise UserError(
                f"{self.folder} has no codes for the record {record_id!r}; extract codes from the "
                f"same prepared data"
            )
        if not 0 <= crop < self.num_crops:
            raise IndexError(f"crop {crop} of {self.num_crops}")
        shard, row = self._position[record_id]
        semantic, pixel = (plane[row + crop] for plane in self._planes[shard])
        manifest, length = self.manifest, self.manifest.num_image_positions
        return (
            unpack(semantic, length, manifest.semantic_bits),
            unpack(pixel, length, manifest.pixel_bits),
        )

    def flat(self, record_id: str, crop: int = 0) -> np.ndarray:
        """Flat image codes (N,) int64 of one crop of a record."""
        semantic, pixel = self.planes(record_id, crop)
        return semantic * self.manifest.num_pixel_codes + pixel

    def verify(self) -> None:
        """Compare every shard with its checksum; a `UserError` names the first that has changed."""
        for shard in self.manifest.shards:
            path = self.folder / shard["file"]
            if file_sha256(path) != shard["sha256"]:
                raise UserError(f"the shard {path} is damaged (its checksum differs); {HINT}")

    def _open(self, shard: dict[str, Any]) -> pa.Table:
        path = self.folder / shard["file"]
        if not path.is_file():
            raise UserError(f"the shard {path} is missing; {HINT}")
        if (size := path.stat().st_size) != shard["bytes"]:
            sizes = f"it has {size:,} bytes, not {shard['bytes']:,}"
            raise UserError(f"the shard {path} is damaged ({sizes}); {HINT}")
        table = _read(path, self.manifest)
        if table.num_rows != shard["rows"]:
            raise UserError(f"the shard {path} is not the one in its manifest; {HINT}")
        return table


def _read(path: Path, manifest: CodesManifest) -> pa.Table:
    """A shard's table, memory-mapped; one chunk, as `write_shard` left it."""
    try:
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"the shard {path} is damaged ({error}); {HINT}") from error
    if not table.schema.equals(manifest.schema):
        raise UserError(f"the shard {path} is not the one in its manifest; {HINT}")
    return table


def _content_sha256(table: pa.Table) -> bytes:
    """Hex digest over the values of every column, however Arrow has laid them out."""
    ids = "\0".join(table.column("record_id").to_pylist())
    planes = [_plane(table, name).data for name in ("semantic", "pixel")]
    return fingerprint([ids, table.column("crop").to_numpy().tobytes(), *planes]).encode()


def _plane(table: pa.Table, name: str) -> np.ndarray:
    """The packed rows of a plane, (rows, bytes) uint8; a view of the mapped file."""
    column = table.column(name)
    if not table.num_rows:
        return np.empty((0, column.type.byte_width), np.uint8)
    (chunk,) = column.chunks
    return np.frombuffer(chunk.buffers()[1], np.uint8).reshape(table.num_rows, -1)
