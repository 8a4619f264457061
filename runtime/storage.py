"""One folder, on disk or in an object store: files that are there whole or not at all.

A plain path and `file://` are the disk; anything else with `://` (`s3://`, `hf://`, `memory://`)
goes through fsspec, which needs that store's package (s3fs for `s3://`). On disk a file is written
beside its place and renamed; a store shows an object only when all of it has arrived.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runtime.errors import UserError, says
from runtime.run_folder import make_folder

TEMPORARY = ".tmp"
"""How the name of a file that is still being written ends."""


def is_remote(place: str | Path) -> bool:
    """Whether a place is in an object store."""
    return "://" in str(place) and not str(place).startswith("file://")


def local_copy(place: str, manifest: str) -> Path:
    """A copy on disk of what a manifest in an object store lists, fetched once.

    Args:
        place: URL of the folder.
        manifest: name of its JSON file, with `shards` of a `file` and `bytes` each.

    Returns:
        A folder below `$XDG_CACHE_HOME/semhitok` (`~/.cache/semhitok`), named by the manifest's
        content; what is there already is not fetched again.

    Raises:
        UserError: if there is no such manifest, it lists other than files of its folder, or one
            cannot be fetched.
    """
    storage = Storage(place)
    try:
        data = storage.read(manifest)
    except FileNotFoundError as error:
        raise UserError(f"{place} holds no {manifest}; name a folder that was finished") from error
    try:
        listed = [(shard["file"], shard["bytes"]) for shard in json.loads(data)["shards"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{place}/{manifest} is no manifest of shards ({says(error)})") from error
    check_listed(place, [name for name, _ in listed])
    folder = Storage(cache_folder() / hashlib.sha256(data).hexdigest()[:32])
    folder.make()
    for name, size in listed:
        if folder.size(name) == size:
            continue
        try:
            storage.copy(name, folder, name)
        except FileNotFoundError as error:
            raise UserError(f"{place} lacks {name}, which its manifest lists") from error
    folder.write(manifest, data)
    return folder.path


def check_listed(place: str | Path, names: list[str]) -> None:
    """Refuse a manifest that names a file which is not one of its own folder.

    Raises:
        UserError: if it does; somebody else may have written it.
    """
    for name in names:
        if not isinstance(name, str) or name in ("", "..") or name != os.path.basename(name):
            raise UserError(f"the manifest of {place} lists {name!r}, which is no file inside it")


def matching(place: str, ending: str) -> list[str]:
    """URLs of the files in a store that are meant.

    Args:
        place: URL of one file, a pattern with `*`, or a folder, with `/` at its end.
        ending: of the names that count in a folder.

    Returns:
        In the order of their names; the URL itself where it names one file.

    Raises:
        UserError: if the store cannot be asked, or holds none.
    """
    if "*" not in place and not place.endswith("/"):
        return [place]
    import fsspec

    try:
        store, root = fsspec.core.url_to_fs(place)
        if "*" in place:
            found = store.glob(root)
        else:
            found = [name for name in store.ls(root, detail=False) if name.endswith(ending)]
    except Exception as error:  # each store has kinds of its own
        raise UserError(f"{place} cannot be looked through ({says(error)})") from error
    if not found:
        raise UserError(f"no file matches {place}{'' if '*' in place else f'*{ending}'}")
    return sorted(store.unstrip_protocol(name) for name in found)


@contextlib.contextmanager
def reading(place: str) -> Iterator[Any]:
    """Open a file on disk or in a store; what fails is the place and never what the file holds.

    Yields:
        A file with `read`, `seek` and `tell`.

    Raises:
        UserError: if it cannot be opened, or reading it fails on the way.
    """
    import fsspec

    try:
        # fsspec would take a `::` or `*` in a name on disk for one of its own.
        file = fsspec.open(place, "rb").open() if is_remote(place) else open(place, "rb")  # noqa: SIM115  (closed below)
    except Exception as error:
        missing = isinstance(error, FileNotFoundError) and error.__cause__ is None
        reason = "it is not there" if missing else says(error.__cause__ or error)
        raise UserError(
            f"{place} cannot be opened ({reason}): mend its name or the access to it, then run the "
            "same command again"
        ) from error
    with file:
        yield _Reading(place, file)


class _Reading:
    """An open file that tells a failing place from a broken file."""

    def __init__(self, place: str, file: Any) -> None:
        self.place = place
        self.file = file

    def read(self, size: int = -1) -> bytes:
        try:
            return bytes(self.file.read(size))
        except Exception as error:
            raise UserError(
                f"reading {self.place} failed ({says(error)}): run the same command again, which "
                "goes on from there"
            ) from error

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self.file.seek(offset, whence))

    def tell(self) -> int:
        return int(self.file.tell())

    @property
    def closed(self) -> bool:
        return bool(self.file.closed)

    def close(self) -> None:
        self.file.close()


def mirror(place: str | Path) -> Path:
    """A folder on disk to work in: the place itself, or one in the cache for one in a store."""
    if is_remote(place):
        return cache_folder() / hashlib.sha256(str(place).encode()).hexdigest()[:32]
    return Storage(place).path


def cache_folder() -> Path:
    """Where copies of what lies elsewhere are kept: `~/.cache/semhitok`."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "semhitok"


class Storage:
    """The files of one folder.

    Args:
        place: a path, or a URL that fsspec knows.

    Raises:
        UserError: if the URL's kind is unknown or its package is missing.
    """

    def __init__(self, place: str | Path) -> None:
        self.place = str(place).removeprefix("file://")
        self._fs: Any = None
        if is_remote(place):
            import fsspec

            try:
                self._fs, self._root = fsspec.core.url_to_fs(self.place)
            except (ImportError, ValueError) as error:
                raise UserError(f"{place} cannot be opened ({error})") from error

    def __truediv__(self, name: str) -> Storage:
        """A folder inside this one."""
        return Storage(f"{self.place.rstrip('/')}/{name}")

    @property
    def path(self) -> Path:
        """The folder on disk."""
        assert self._fs is None
        return Path(self.place)

    def make(self) -> None:
        """Make the folder, if it is not there; a store has none to make."""
        if self._fs is None:
            make_folder(self.path)

    def names(self) -> list[str]:
        """Names of the files and folders inside, sorted."""
        if self._fs is None:
            return sorted(os.listdir(self.path)) if self.path.is_dir() else []
        self._fs.invalidate_cache()  # other processes write here too
        if not self._fs.isdir(self._root):
            return []
        found = self._fs.ls(self._root, detail=False)
        return sorted(each.rstrip("/").rsplit("/", 1)[-1] for each in found)

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is no such file."""
        if self._fs is None:
            path = self.path / name
            return path.stat().st_size if path.is_file() else None
        self._fs.invalidate_cache()
        return int(self._fs.size(self._url(name))) if self._fs.isfile(self._url(name)) else None

    def read(self, name: str) -> bytes:
        """All of a file.

        Raises:
            FileNotFoundError: if there is none.
        """
        if self._fs is None:
            return (self.path / name).read_bytes()
        return bytes(self._fs.cat_file(self._url(name)))

    def write(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all."""
        with self.writing(name) as path:
            path.write_bytes(data)

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """A local path to fill, which becomes the file when the block ends without an error.

        Raises:
            UserError: if there is no room, or the place cannot be written.
        """
        if self._fs is None:
            # A random name, since processes of several machines may write the same file.
            temporary = self.path / f".{name}.{secrets.token_hex(4)}{TEMPORARY}"
        else:
            folder = tempfile.mkdtemp(prefix="semhitok-")
            temporary = Path(folder) / name
        try:
            yield temporary
            if self._fs is not None:
                self._fs.put_file(str(temporary), self._url(name))
            else:
                with open(temporary, "rb") as file:
                    os.fsync(file.fileno())
                os.replace(temporary, self.path / name)
        except OSError as error:
            raise UserError(
                f"cannot write {self.place}/{name}: {error.strerror or error}; make room or choose "
                "another folder, then run the same command again, which goes on from there"
            ) from error
        finally:
            with contextlib.suppress(OSError):
                if self._fs is not None:
                    shutil.rmtree(temporary.parent)
                else:
                    temporary.unlink(missing_ok=True)

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        """A local path that holds the file for as long as the block lasts."""
        if self._fs is None:
            yield self.path / name
            return
        with tempfile.TemporaryDirectory(prefix="semhitok-") as folder:
            path = Path(folder) / name
            self._fs.get_file(self._url(name), str(path))
            yield path

    def copy(self, name: str, other: Storage, other_name: str) -> None:
        """Put a file into another folder; on one disk as a second name of the same bytes."""
        with self.reading(name) as source, other.writing(other_name) as target:
            try:
                os.link(source, target)
            except OSError:  # another disk, or one that has no links
                shutil.copyfile(source, target)

    def delete(self, name: str) -> None:
        """Delete a file, if it is there."""
        if self._fs is None:
            (self.path / name).unlink(missing_ok=True)
        elif self._fs.isfile(self._url(name)):
            self._fs.rm_file(self._url(name))

    def delete_all(self) -> None:
        """Delete the folder with everything inside."""
        if self._fs is None:
            shutil.rmtree(self.path, ignore_errors=True)
        elif self._fs.isdir(self._root):
            self._fs.rm(self._root, recursive=True)

    def _url(self, name: str) -> str:
        return f"{str(self._root).rstrip('/')}/{name}"
