"""Captioned emoji: the npm package `emoji-datasource-google`, as npm packs it or unpacked.

    npm pack emoji-datasource-google      # emoji-datasource-google-16.0.0.tgz
    semhitok prepare emoji:emoji-datasource-google-16.0.0.tgz --out data/emoji

`emoji.json` names each picture (`"unified": "1F600", "name": "GRINNING FACE", "short_names":
["grinning"], "image": "1f600.png"`), `img/google/64/` holds them, 64 x 64 with alpha.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_pipelines.images import MAX_FILE_SIZE
from data_pipelines.records import Record, Reject
from data_pipelines.safe_files import check_name, load_json, read_named
from data_pipelines.sources.columns import text_of
from data_pipelines.sources.rows import Rows, guarded
from runtime.errors import UserError

LICENCE = "Apache-2.0 (pictures: Noto Emoji by Google), MIT (names)"
ORIGIN = "npm package emoji-datasource-google, https://github.com/iamcal/emoji-data"
PICTURES = "img/google/64"
MAX_ARCHIVE_SIZE = 512 * 1024 * 1024
"""Most bytes of names and pictures that are kept of an archive."""


def read_emoji(place: Path) -> Rows:
    """The emoji of the package in its own order, without those that have no picture.

    Args:
        place: the unpacked folder, or the `.tgz` that `npm pack` downloads.

    Raises:
        UserError: if it is not that package.
    """
    if place.is_dir():
        names = load_json(place / "emoji.json")
        picture: Callable[[str], bytes] = lambda name: read_named(  # noqa: E731
            place / PICTURES, name, MAX_FILE_SIZE
        )
    else:
        held = _unpack(place)
        try:
            names = json.loads(held["emoji.json"])
        except (KeyError, ValueError) as error:
            raise UserError(f"{place} holds no readable emoji.json") from error
        picture = lambda name: _held(held, name)  # noqa: E731
    if not isinstance(names, list) or not names:
        raise UserError(f"{place} holds no emoji: emoji.json is no list")
    shown = [
        entry for entry in names if not isinstance(entry, dict) or entry.get("has_img_google", True)
    ]

    def read(index: int) -> Record | Reject:
        return guarded("emoji", index, lambda: _record(shown[index], picture))

    return Rows(len(shown), read)


def _record(entry: Any, picture: Callable[[str], bytes]) -> Record:
    """One emoji; its names in words are its captions."""
    names = [entry.get("name"), *entry.get("short_names", [])]
    captions = []
    for name in names:
        if name:
            words = text_of(name, "caption").lower().replace("_", " ").replace("-", " ")
            if words not in captions:
                captions.append(words)
    return Record(f"emoji-{entry['unified'].lower()}", picture(entry["image"]), captions)


def _held(held: dict[str, bytes], name: str) -> bytes:
    check_name(name)
    found = held.get(f"{PICTURES}/{name}")
    if found is None:
        raise ValueError(f"{name} is not there")
    return found


def _unpack(path: Path) -> dict[str, bytes]:
    """The names and the pictures of 64 pixels out of the package's archive, in memory."""
    held: dict[str, bytes] = {}
    size = 0
    try:
        with tarfile.open(path, mode="r|gz") as archive:
            for member in archive:
                name = member.name.removeprefix("package/")
                if not member.isreg() or not (name == "emoji.json" or name.startswith(PICTURES)):
                    continue
                size += member.size
                if size > MAX_ARCHIVE_SIZE:
                    raise UserError(f"{path} holds more than {MAX_ARCHIVE_SIZE:,} bytes of emoji")
                content = archive.extractfile(member)
                assert content is not None
                held[name] = content.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{path} is no whole npm package ({error})") from error
    return held
