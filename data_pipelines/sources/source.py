"""What `prepare` can read, and how a source is written: NAME, FOLDER or KIND:PATH[,key=value...].

    easy-vqa-train, easy-vqa-test         the two splits of easy-VQA
    photos/                               the same as folder:photos/
    folder:DIR[,captions=FILE]            images; captions from .txt files or a JSONL or CSV table
    llava:FILE.json,images=DIR            conversations
    parquet:PATH  arrow:PATH              a file, a folder of them, or a pattern with *; or its URL
    webdataset:PATH                       tars: a file, folder, pattern or {0000..0127}; or its URL
    hub:NAME[,config=C][,split=S][,streaming=1]
    vqav2:QUESTIONS.json,annotations=FILE.json,images=DIR
    gqa:QUESTIONS.json,images=DIR         textvqa:QUESTIONS.json,images=DIR
    jsonl:FILE[,images=DIR]               texts, conversations, or images by name
    emoji:FOLDER-OR-TGZ                   the npm package emoji-datasource-google

Tables (folder's captions, parquet, arrow, webdataset, hub, jsonl) take `id=`, `image=`,
`caption=`, `question=`, `answer=`, `conversations=` and `text=` to say which column is what, and
every source takes `licence=`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipelines.records import Record, Reject
from data_pipelines.sources.columns import USUAL
from data_pipelines.sources.rows import Rows, Streams
from runtime.errors import UserError
from runtime.storage import is_remote

EASY_VQA_SPLITS = {"easy-vqa-train": "train", "easy-vqa-test": "test"}
"""Source name -> split. There is no name for both: nobody should train on the test images."""

UNKNOWN_LICENCE = "unknown; as the data's owner says"


@dataclass(frozen=True)
class Source:
    """Records and where they come from."""

    name: str
    """As the user wrote it."""
    licence: str
    """The licence of the data, or a hint that it is the user's to know."""
    origin: str
    """Who made the data and where it is published."""
    num_records: int | None
    """How many there are, rejects included; None where only reading tells."""
    records: Rows | Streams | Iterable[Record | Reject]
    """The records, in an order that depends on the data only."""


@dataclass(frozen=True)
class Spec:
    """A source as the user wrote it, taken apart."""

    name: str
    kind: str
    path: str
    options: dict[str, str]

    def take(self, key: str) -> str:
        """An option that the kind cannot do without."""
        if key not in self.options:
            raise UserError(f"the source {self.name!r} needs {key}=, such as {EXAMPLES[self.kind]}")
        return self.options[key]

    def folder(self, key: str, required: bool = True) -> Path | None:
        """A folder that an option names."""
        if not required and key not in self.options:
            return None
        path = Path(self.take(key)).expanduser()
        if not path.is_dir():
            raise UserError(f"there is no folder {path}, which {self.name!r} names")
        return path

    def file(self, text: str | None = None) -> Path:
        """A file that the source's path, or an option, names."""
        path = Path(self.path if text is None else text).expanduser()
        if not path.is_file():
            raise UserError(f"no such file: {path}")
        return path

    @property
    def columns(self) -> dict[str, str]:
        """The mapping of columns among the options."""
        return {key: value for key, value in self.options.items() if key in USUAL}


def parse_source(name: str) -> Spec:
    """Take a source apart.

    Raises:
        UserError: if its kind or an option is not known.
    """
    kind, colon, rest = name.partition(":")
    if not colon or not re.fullmatch(r"[a-z0-9]+", kind) or rest.startswith("//"):
        kind, rest = "folder", name
    if kind not in EXAMPLES:
        raise UserError(f"there is no kind of source {kind!r}; known are {', '.join(EXAMPLES)}")
    # A comma in a path stands; only one before `key=` ends it.
    path, *parts = re.split(r",(?=[a-z_]+=)", rest)
    options = dict(part.partition("=")[::2] for part in parts)
    known = [*OPTIONS.get(kind, []), *(USUAL if kind in TABLES else []), "licence"]
    for key in options:
        if key not in known:
            raise UserError(f"{kind} has no option {key!r}; it takes {', '.join(known)}")
    if not path.strip():
        raise UserError(f"the source {name!r} names no path; write {EXAMPLES[kind]}")
    return Spec(name, kind, path, options)


def folder_of(name: str) -> Path | None:
    """The folder that a source looks through for its files, if it is one."""
    path = None if name in EASY_VQA_SPLITS else Path(parse_source(name).path).expanduser()
    return path if path is not None and path.is_dir() else None


def open_source(name: str) -> Source:
    """Find a source by its name or path.

    Raises:
        UserError: if there is no such source, or it is empty or not installed.
    """
    if name in EASY_VQA_SPLITS:
        from data_pipelines.sources import easy_vqa

        split = EASY_VQA_SPLITS[name]
        rows: Rows | Streams = easy_vqa.read_rows(split)
        return Source(name, easy_vqa.LICENCE, easy_vqa.ORIGIN, easy_vqa.NUM_IMAGES[split], rows)
    known = f"{', '.join(EASY_VQA_SPLITS)}, or the path of a folder of images, or KIND:PATH"
    if ":" not in name and not Path(name).expanduser().is_dir():
        raise UserError(f"there is no source {name!r}; known are {known}")
    spec = parse_source(name)
    rows = OPENERS[spec.kind](spec)
    licence, origin = UNKNOWN_LICENCE, ORIGINS.get(spec.kind, "local files")
    if spec.kind == "emoji":
        from data_pipelines.sources import emoji

        licence, origin = emoji.LICENCE, emoji.ORIGIN
    count = len(rows) if isinstance(rows, Rows) else None
    if count == 0:
        raise UserError(f"the source {name!r} holds no record")
    return Source(name, spec.options.get("licence", licence), origin, count, rows)


def _folder(spec: Spec) -> Rows:
    from data_pipelines.sources.image_folder import read_folder

    table = spec.options.get("captions")
    root = Path(spec.path).expanduser()
    return read_folder(root, spec.file(table) if table else None, spec.columns)


def _llava(spec: Spec) -> Rows:
    from data_pipelines.sources.llava import read_llava

    return read_llava(spec.file(), _required(spec.folder("images")))


def _tables(spec: Spec) -> Rows:
    from data_pipelines.sources.tables import read_tables

    path = spec.path if is_remote(spec.path) else str(Path(spec.path).expanduser())
    return read_tables(path, spec.kind, spec.folder("images", required=False), spec.columns)


def _webdataset(spec: Spec) -> Streams:
    from data_pipelines.sources.tar_shards import read_tars

    return read_tars(spec.path, spec.columns)


def _hub(spec: Spec) -> Rows | Streams:
    from data_pipelines.sources.hub import read_hub

    return read_hub(
        spec.path,
        spec.columns,
        spec.options.get("config"),
        spec.options.get("split", "train"),
        spec.options.get("streaming", "0") not in ("0", "false"),
        spec.folder("images", required=False),
    )


def _vqav2(spec: Spec) -> Rows:
    from data_pipelines.sources.vqa_files import read_vqav2

    annotations = spec.file(spec.take("annotations"))
    return read_vqav2(spec.file(), annotations, _required(spec.folder("images")))


def _gqa(spec: Spec) -> Rows:
    from data_pipelines.sources.vqa_files import read_gqa

    return read_gqa(spec.file(), _required(spec.folder("images")))


def _textvqa(spec: Spec) -> Rows:
    from data_pipelines.sources.vqa_files import read_textvqa

    return read_textvqa(spec.file(), _required(spec.folder("images")))


def _jsonl(spec: Spec) -> Rows:
    from data_pipelines.sources.jsonl import read_jsonl

    return read_jsonl(spec.file(), spec.folder("images", required=False), spec.columns)


def _emoji(spec: Spec) -> Rows:
    from data_pipelines.sources.emoji import read_emoji

    path = Path(spec.path).expanduser()
    return read_emoji(path if path.is_dir() else spec.file())


def _required(path: Path | None) -> Path:
    assert path is not None
    return path


OPENERS: dict[str, Callable[[Spec], Any]] = {
    "folder": _folder,
    "llava": _llava,
    "parquet": _tables,
    "arrow": _tables,
    "webdataset": _webdataset,
    "hub": _hub,
    "vqav2": _vqav2,
    "gqa": _gqa,
    "textvqa": _textvqa,
    "jsonl": _jsonl,
    "emoji": _emoji,
}
OPTIONS = {
    "folder": ["captions"],
    "llava": ["images"],
    "parquet": ["images"],
    "arrow": ["images"],
    "hub": ["config", "split", "streaming", "images"],
    "vqav2": ["annotations", "images"],
    "gqa": ["images"],
    "textvqa": ["images"],
    "jsonl": ["images"],
}
TABLES = ("folder", "parquet", "arrow", "webdataset", "hub", "jsonl")
"""Kinds that take a mapping of columns."""
EXAMPLES = {
    "folder": "folder:photos",
    "llava": "llava:llava_v1_5_mix665k.json,images=images",
    "parquet": "parquet:captions.parquet,image=jpg,caption=text",
    "arrow": "arrow:captions.arrow,image=jpg,caption=text",
    "webdataset": "webdataset:shards/{00000..00127}.tar",
    "hub": "hub:lambdalabs/pokemon-blip-captions,split=train",
    "vqav2": "vqav2:questions.json,annotations=annotations.json,images=train2014",
    "gqa": "gqa:train_balanced_questions.json,images=images",
    "textvqa": "textvqa:TextVQA_0.5.1_train.json,images=train_images",
    "jsonl": "jsonl:texts.jsonl",
    "emoji": "emoji:emoji-datasource-google-16.0.0.tgz",
}
ORIGINS = {
    "folder": "a local folder of images",
    "hub": "a data set of the Hugging Face hub",
    "vqav2": "VQAv2 (Goyal et al., 2017), https://visualqa.org",
    "gqa": "GQA (Hudson and Manning, 2019), https://cs.stanford.edu/people/dorarad/gqa",
    "textvqa": "TextVQA (Singh et al., 2019), https://textvqa.org",
}
