"""How a source is written: NAME, FOLDER or KIND:PATH[,key=value...]. Opens nothing.

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

Tables (folder's captions, parquet, arrow, webdataset, hub, jsonl) take `id=`, `image=`, `caption=`,
`question=`, `answer=`, `conversations=` and `text=` to say which column is what, and every source
takes `licence=`.
"""

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import UserError

EASY_VQA_SPLITS = {"easy-vqa-train": "train", "easy-vqa-test": "test"}
"""Source name -> split. There is no name for both: nobody should train on the test images."""
USUAL = {
    "id": ("id", "record_id"),
    "image": ("image", "images", "file_name", "jpg", "png", "webp"),
    "caption": ("caption", "captions"),
    "question": ("question",),
    "answer": ("answer", "answers"),
    "question_id": ("question_id",),
    "questions": ("questions",),
    "conversations": ("conversations", "messages"),
    "text": ("text",),
}
"""Keys that map columns, and the columns they take when they are not given."""
SIMILAR = {
    "image": ("img", "picture", "photo", "path", "image_path", "url", "image_url"),
    "caption": ("title", "description", "alt", "alt_text", "prompt", "sentence", "label", "texts"),
    "question": ("query", "instruction", "input", "problem"),
    "answer": ("response", "output", "target", "label", "solution"),
    "conversations": ("conversation", "dialogue", "dialog", "turns", "chat"),
    "text": ("content", "document", "body"),
}
"""Keys that map columns, and columns of other names that may be meant."""


@dataclass(frozen=True)
class Kind:
    """A kind of source."""

    example: str
    """One as it could be written."""
    options: tuple[str, ...] = ()
    """Keys that it takes, beside `licence`."""
    maps_columns: bool = False
    """Whether it also takes the keys of `USUAL`."""
    origin: str = "local files"
    """Who made the data and where they are published."""


KINDS = {
    "folder": Kind("folder:photos", ("captions",), True, "a local folder of images"),
    "llava": Kind("llava:llava_v1_5_mix665k.json,images=images", ("images",)),
    "parquet": Kind("parquet:captions.parquet,image=jpg,caption=text", ("images",), True),
    "arrow": Kind("arrow:captions.arrow,image=jpg,caption=text", ("images",), True),
    "webdataset": Kind("webdataset:shards/{00000..00127}.tar", (), True),
    "hub": Kind(
        "hub:lambdalabs/pokemon-blip-captions,split=train",
        ("config", "split", "streaming", "images"),
        True,
        "a data set of the Hugging Face hub",
    ),
    "vqav2": Kind(
        "vqav2:questions.json,annotations=annotations.json,images=train2014",
        ("annotations", "images"),
        origin="VQAv2 (Goyal et al., 2017), https://visualqa.org",
    ),
    "gqa": Kind(
        "gqa:train_balanced_questions.json,images=images",
        ("images",),
        origin="GQA (Hudson and Manning, 2019), https://cs.stanford.edu/people/dorarad/gqa",
    ),
    "textvqa": Kind(
        "textvqa:TextVQA_0.5.1_train.json,images=train_images",
        ("images",),
        origin="TextVQA (Singh et al., 2019), https://textvqa.org",
    ),
    "jsonl": Kind("jsonl:texts.jsonl", ("images",), True),
}


@dataclass(frozen=True)
class Spec:
    """A source as the user wrote it, taken apart."""

    name: str
    kind: str
    path: str
    options: dict[str, str]

    @property
    def columns(self) -> dict[str, str]:
        """The mapping of columns among the options."""
        return {key: value for key, value in self.options.items() if key in USUAL}

    def option(self, key: str) -> str:
        """An option that the kind cannot do without."""
        if key not in self.options:
            example = KINDS[self.kind].example
            raise UserError(f"the source {self.name!r} needs {key}=, such as {example}")
        return self.options[key]

    def folder(self, key: str) -> Path:
        """A folder that an option names."""
        path = Path(self.option(key)).expanduser()
        if not path.is_dir():
            raise UserError(f"there is no folder {path}, which {self.name!r} names")
        return path

    def folder_or_none(self, key: str) -> Path | None:
        """The same of an option that may be absent."""
        return self.folder(key) if key in self.options else None

    def file(self, text: str | None = None) -> Path:
        """A file that the source's path, or an option, names."""
        path = Path(self.path if text is None else text).expanduser()
        if not path.is_file():
            raise UserError(f"no such file: {path}")
        return path


def parse_source(name: str) -> Spec:
    """Take a source apart; a `UserError` if its kind or an option is not known."""
    kind, colon, rest = name.partition(":")
    is_kind = colon and re.fullmatch(r"[a-z0-9]+", kind) and not rest.startswith("//")
    if not is_kind or os.path.isdir(os.path.expanduser(name)):
        kind, rest = "folder", name
    if kind not in KINDS:
        raise UserError(f"there is no kind of source {kind!r}; known are {', '.join(KINDS)}")
    # A comma in a path stands; only one before `key=` ends it, unless there is such a path.
    whole = os.path.exists(os.path.expanduser(rest))
    path, *parts = [rest] if whole else re.split(r",(?=[a-z_]+=)", rest)
    pairs = [part.partition("=")[::2] for part in parts]
    options = dict(pairs)
    known = [*KINDS[kind].options, *(USUAL if KINDS[kind].maps_columns else ()), "licence"]
    for key in options:
        if key not in known:
            raise UserError(f"{kind} has no option {key!r}; it takes {', '.join(known)}")
    if len(options) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise UserError(f"the source {name!r} gives {twice}= more than once: give it once")
    if not path.strip():
        raise UserError(f"the source {name!r} names no path; write {KINDS[kind].example}")
    return Spec(name, kind, path, options)


def folder_of(name: str) -> Path | None:
    """The folder in which a source looks for its files, if it is one."""
    path = None if name in EASY_VQA_SPLITS else Path(parse_source(name).path).expanduser()
    return path if path is not None and path.is_dir() else None


def check_source(name: str) -> str:
    """Refuse, by a `ValueError`, what is surely no source; the rest shows when it is opened."""
    if not name.strip():
        raise ValueError("the name is empty; name a source")
    if re.match(r"[a-z0-9]+:", name) or name in EASY_VQA_SPLITS:
        return name
    looks_like_path = "/" in name or name.startswith((".", "~"))
    if os.path.isfile(name):
        raise ValueError(f"{name} is a file; name a folder, or its kind, as in jsonl:{name}")
    if looks_like_path and not os.path.isdir(os.path.expanduser(name)):
        raise ValueError(f"no such folder: {name}")
    return name


def similar_key(column: str) -> str | None:
    """The key that a column of an unusual name may be meant for, if one comes to mind."""
    for key, usual in USUAL.items():
        if difflib.get_close_matches(column.lower(), usual, n=1, cutoff=0.75):
            return key
    return next((key for key, names in SIMILAR.items() if column.lower() in names), None)
