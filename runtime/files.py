"""Files that are either whole or absent: atomic writes, and JSON with errors that can be fixed."""

import contextlib
import errno
import glob
import hashlib
import json
import math
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from runtime.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
TEMPORARY = ".tmp"
"""How the name of a file that is still being written ends."""
MAX_JSON_SIZE = 8 * 1024**3
"""Largest JSON file that is read at once, in bytes."""


def write_text(path: str | Path, text: str) -> Path:
    """Write UTF-8 `text`; see `write_bytes`."""
    return write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str | Path, data: bytes) -> Path:
    """Write `data` so that no reader, and no crash, ever sees half of it.

    Raises:
        UserError: if the folder is missing or cannot be written, or the disk is full.
    """
    return write_parts(path, (data,))


def write_parts(path: str | Path, parts: Iterable[bytes]) -> Path:
    """The same for what is too large to hold at once.

    Raises:
        UserError: as `write_bytes`.
    """
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        file.writelines(parts)
    return Path(path)


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A path to write a file under, which becomes `path` when the block ends without an error.

    It lies beside the target, since a rename is atomic only within one file system. Its name is
    random, since ranks on different hosts may share both the folder and the process id. (`tempfile`
    would leave the file readable by its owner alone.) After an error nothing is left of it.

    Raises:
        UserError: if the folder is missing or cannot be written, or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{_stem(path)}.{secrets.token_hex(4)}{TEMPORARY}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        hint = "free some space" if error.errno in FULL else "choose a folder that can be written"
        raise UserError(f"cannot write {path}: {error.strerror or error}; {hint}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def torch_could_not_write(error: BaseException) -> bool:
    """Whether `torch.save` has failed to write, of which it says no more than where in its code."""
    return any(place in str(error) for place in ("PytorchStreamWriter", "inline_container.cc"))


def delete_temporaries(path: Path) -> None:
    """Delete what killed writers of `path` have left, and what others are still writing."""
    for left in path.parent.glob(f".{glob.escape(_stem(path))}.*{TEMPORARY}"):
        left.unlink(missing_ok=True)


def _stem(path: Path) -> str:
    """How temporaries of a path begin: its name, unless that fills what file systems allow."""
    return path.name if len(os.fsencode(path.name)) <= 240 else path.name[:60]


def write_json(path: str | Path, value: Any) -> Path:
    """Write `value` as indented JSON, atomically.

    Paths become strings, numpy and torch scalars numbers, and non-finite numbers null, since
    standard JSON has neither NaN nor infinity.
    """
    return write_text(path, json.dumps(_plain(value), indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path, make_object: Callable[[Any], Any] = dict) -> Any:
    """Read a JSON file; a byte-order mark at its start is passed over.

    `make_object` gets the keys and values of each object; a `dict` keeps the last of equal keys.

    Raises:
        UserError: if it is missing, unreadable, too large or broken; a broken file is named with
            its line.
    """
    try:
        if os.path.getsize(path) > MAX_JSON_SIZE:
            raise UserError(f"{path} is larger than {MAX_JSON_SIZE:,} bytes: give it as JSONL")
        text = Path(path).read_bytes().decode("utf-8-sig")
        return json.loads(text, object_pairs_hook=None if make_object is dict else make_object)
    except FileNotFoundError as error:
        raise UserError(f"no such file: {path}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, {error.msg.lower()}"
        raise UserError(f"{path} is not valid JSON: {where}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not valid JSON: it is not UTF-8 text") from error
    except (ValueError, RecursionError) as error:  # numbers of a million digits, a million brackets
        raise UserError(f"{path} is not valid JSON: {error}") from error


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these keys and values; a `ValueError` where a key comes twice, losing one."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        shown = json.dumps(found)[:100]
        raise ValueError(f"the key {twice!r} comes twice in one object, which begins {shown}")
    return found


def is_whole_text(text: str) -> bool:
    """Whether UTF-8 can write it: JSON and arguments may hold halves of characters, models not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def file_sha256(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(parts: Iterable[str | bytes | memoryview]) -> str:
    """The SHA-256 of all parts, one after another, as 64 hexadecimal digits; texts in UTF-8."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """`value` with everything that JSON cannot hold turned into what it can."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy and torch, without importing either
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
