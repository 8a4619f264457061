"""Opens what `prepare` can read; `spec.py` says how a source is written."""

from dataclasses import dataclass
from pathlib import Path

from data_pipelines.sources.rows import Rows, Streams
from data_pipelines.sources.spec import EASY_VQA_SPLITS, KINDS, Spec, parse_source
from runtime.errors import UserError
from runtime.storage import is_remote

UNKNOWN_LICENCE = "unknown; as the data's owner says"


@dataclass(frozen=True)
class Source:
    """Records and where they come from."""

    name: str
    """As the user wrote it."""
    licence: str
    """The licence of the data, or a hint that it is the user's to know."""
    origin: str
    """Who made the data and where they are published."""
    records: Rows | Streams
    """The records, in an order that depends on the data alone."""


def open_source(name: str) -> Source:
    """Find a source by its name or path; a `UserError` if there is none, or it is empty."""
    if name in EASY_VQA_SPLITS:
        from data_pipelines.sources import easy_vqa

        rows = easy_vqa.read_rows(EASY_VQA_SPLITS[name])
        return Source(name, easy_vqa.LICENCE, easy_vqa.ORIGIN, rows)
    if ":" not in name and not Path(name).expanduser().is_dir():
        raise UserError(
            f"there is no source {name!r}; known are {', '.join(EASY_VQA_SPLITS)}, or the path of "
            "a folder of images, or KIND:PATH"
        )
    spec = parse_source(name)
    records = _read(spec)
    if isinstance(records, Rows) and not len(records):
        raise UserError(f"the source {name!r} holds no record")
    licence = spec.options.get("licence", UNKNOWN_LICENCE)
    return Source(name, licence, KINDS[spec.kind].origin, records)


def _read(spec: Spec) -> Rows | Streams:
    """The records of a source; only the reader that it needs is imported."""
    match spec.kind:
        case "folder":
            from data_pipelines.sources.image_folder import read_folder

            table = spec.options.get("captions")
            root = Path(spec.path).expanduser()
            return read_folder(root, spec.file(table) if table else None, spec.columns)
        case "llava":
            from data_pipelines.sources.llava import read_llava

            return read_llava(spec.file(), spec.folder("images"))
        case "parquet" | "arrow":
            from data_pipelines.sources.tables import read_tables

            path = spec.path if is_remote(spec.path) else str(Path(spec.path).expanduser())
            return read_tables(path, spec.kind, spec.folder_or_none("images"), spec.columns)
        case "webdataset":
            from data_pipelines.sources.tar_shards import read_tars

            return read_tars(spec.path, spec.columns)
        case "hub":
            from data_pipelines.sources.hub import read_hub

            config, split = spec.options.get("config"), spec.options.get("split", "train")
            streaming = spec.options.get("streaming", "0") not in ("0", "false")
            images = spec.folder_or_none("images")
            return read_hub(spec.path, spec.columns, config, split, streaming, images)
        case "jsonl":
            from data_pipelines.sources.tables import read_jsonl

            return read_jsonl(spec.file(), spec.folder_or_none("images"), spec.columns)
    from data_pipelines.sources.vqa_files import read_gqa, read_textvqa, read_vqav2

    if spec.kind == "vqav2":
        annotations = spec.file(spec.option("annotations"))
        return read_vqav2(spec.file(), annotations, spec.folder("images"))
    read = {"gqa": read_gqa, "textvqa": read_textvqa}[spec.kind]
    return read(spec.file(), spec.folder("images"))
