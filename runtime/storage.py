"""One folder, on disk or in an object store: files that are there whole or not at all.

A plain path and `file://` are the disk; anything else with `://` (`s3://`, `hf://`, `memory://`)
is a store, which needs its package (s3fs for `s3://`). Both go through fsspec. On disk a file is
written beside its target and renamed; a store shows an object only when all of it has arrived.
"""

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runtime.errors import UserError, says
from runtime.files import fingerprint, whole_file
from runtime.run_folder import make_folder

MAC_LEFTOVERS = ("._", "__MACOSX", ".DS_Store")
"""How names begin of what macOS leaves, or packs, beside files."""
MAX_FILES = 1_000_000
"""Most files that a range of numbers may mean."""


def is_remote(location: str | Path) -> bool:
    """Whether a location is in an object store."""
    return "://" in str(location) and not str(location).startswith("file://")


def cache_folder() -> Path:
    """Where copies of remote files are kept: `~/.cache/semhitok`."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "semhitok"


def mirror(location: str | Path) -> Path:
    """A folder on disk to work in: the location itself, or one in the cache for one in a store."""
    if is_remote(location):
        return cache_folder() / fingerprint([str(location)])[:32]
    return Storage(location).path


def local_copy(location: str, manifest: str) -> Path:
    """A copy on disk of what a manifest in an object store lists, fetched once.

    Args:
        location: URL of the folder.
        manifest: name of its JSON file, with `shards` of a `file` and `bytes` each.

    Returns:
        A folder inside `cache_folder()`, named by the manifest's content; files that are there
        already are not fetched again.

    Raises:
        UserError: if there is no such manifest, it lists files outside its folder, or one cannot be
            fetched.
    """
    storage = Storage(location)
    try:
        data = storage.read(manifest)
    except FileNotFoundError as error:
        what = f"{location} holds no {manifest}"
        raise UserError(f"{what}; name a folder that was finished") from error
    try:
        listed = [(shard["file"], shard["bytes"]) for shard in json.loads(data)["shards"]]
    except (ValueError, KeyError, TypeError) as error:
        what = f"{location}/{manifest} is no manifest of shards"
        raise UserError(f"{what} ({says(error)})") from error
    check_listed(location, [name for name, _ in listed])
    folder = Storage(cache_folder() / fingerprint([data])[:32])
    folder.make()
    for name, size in listed:
        if folder.size(name) == size:
            continue
        try:
            storage.copy(name, folder, name)
        except FileNotFoundError as error:
            raise UserError(f"{location} lacks {name}, which its manifest lists") from error
    folder.write(manifest, data)
    return folder.path


def check_listed(location: str | Path, names: list[str]) -> None:
    """Refuse a manifest that names a file outside its own folder.

    Raises:
        UserError: if it does; somebody else may have written it.
    """
    for name in names:
        if not isinstance(name, str) or name in ("", "..") or name != os.path.basename(name):
            raise UserError(
                f"the manifest of {location} lists {name!r}, which is no file inside it"
            )


def matching(location: str, ending: str) -> list[str]:
    """The files that a path or URL means, in the order of their names.

    Args:
        location: one file; several, with `*` or a range of numbers such as `{0000..0127}`; or a
            folder, whose URL ends in `/`.
        ending: of the names that count in a folder.

    Raises:
        UserError: if a file is not there, or the location cannot be listed. (A single URL is not
            looked for before it is read.)
    """
    is_there = not is_remote(location) and os.path.exists(location)  # whatever its name holds
    if not is_there and (braces := re.search(r"\{(\d+)\.\.(\d+)\}", location)):
        first, last = braces.groups()
        numbers = range(int(first), int(last) + 1)
        if len(numbers) > MAX_FILES:
            raise UserError(f"{location} means {len(numbers):,} files; the limit is {MAX_FILES:,}")
        each = (location.replace(braces[0], f"{n:0{len(first)}d}", 1) for n in numbers)
        return [name for one in each for name in matching(one, ending)]
    is_folder = location.endswith("/") if is_remote(location) else os.path.isdir(location)
    if not is_folder and (is_there or "*" not in location):
        if not (is_there or is_remote(location)):
            raise UserError(f"no such file: {location}")
        return [location]
    try:
        store, root = _open_store(location)
        if is_folder:
            found = [
                name  # macOS leaves `._NAME` beside NAME
                for name in store.ls(root, detail=False)
                if name.lower().endswith(ending) and not os.path.basename(name).startswith("._")
            ]
        else:  # nothing but `*` has a meaning
            found = store.glob(re.sub(r"[\[?]", lambda letter: f"[{letter[0]}]", root))
    except Exception as error:  # each store has kinds of its own
        raise UserError(f"{location} cannot be listed ({says(error)})") from error
    if not found:
        pattern = os.path.join(location, f"*{ending}") if is_folder else location
        raise UserError(f"no file matches {pattern}")
    return sorted(store.unstrip_protocol(name) if is_remote(location) else name for name in found)


def left_out(location: str, taken: list[str]) -> list[str]:
    """What a folder holds beside the files that `matching` took of it; nothing of other locations.

    Names inside it, sorted; those of folders, into which `matching` does not look, end in `/`.
    """
    if not (location.endswith("/") if is_remote(location) else os.path.isdir(location)):
        return []
    store, root = _open_store(location)
    names = {os.path.basename(name) for name in taken}
    left = []
    for each in store.ls(root, detail=True):
        name = os.path.basename(each["name"].rstrip("/"))
        is_own = each["name"].strip("/") == root.strip("/")  # the mark of an empty folder in S3
        if not is_own and name not in names and not name.startswith(MAC_LEFTOVERS):
            left.append(name + "/" * (each["type"] == "directory"))
    return sorted(left)


@contextlib.contextmanager
def reading(location: str) -> Iterator[Any]:
    """Open a file on disk or in a store, so that a failing location is told from a broken file.

    Yields:
        A file with `read`, `seek` and `tell`.

    Raises:
        UserError: if it cannot be opened, or reading it fails on the way.
    """
    try:
        store, path = _open_store(location)
        file = store.open(path, "rb")
    except Exception as error:
        missing = isinstance(error, FileNotFoundError) and error.__cause__ is None
        reason = "it is not there" if missing else says(error.__cause__ or error)
        raise UserError(
            f"{location} cannot be opened ({reason}): correct its name or the access to it, then "
            "run the same command again"
        ) from error
    with file:
        yield _Reading(location, file)


class _Reading:
    """An open file whose reading raises a `UserError` where the location fails."""

    def __init__(self, location: str, file: Any) -> None:
        self.location, self._file = location, file
        self.seek, self.tell, self.close = file.seek, file.tell, file.close

    def read(self, size: int = -1) -> bytes:
        try:
            return bytes(self._file.read(size))
        except Exception as error:
            raise UserError(
                f"reading {self.location} failed ({says(error)}): run the same command again to "
                "resume"
            ) from error

    @property
    def closed(self) -> bool:
        return bool(self._file.closed)


class Storage:
    """The files of one folder: a path, or a URL that fsspec knows.

    Raises:
        UserError: if the URL's kind is unknown or its package is missing.
    """

    def __init__(self, location: str | Path) -> None:
        self.location = str(location).removeprefix("file://")
        self.is_remote = is_remote(location)
        try:
            self._store, self._root = _open_store(self.location)
        except (ImportError, ValueError) as error:
            raise UserError(f"{location} cannot be opened ({error})") from error

    def __truediv__(self, name: str) -> "Storage":
        """A folder inside this one."""
        return Storage(f"{self.location.rstrip('/')}/{name}")

    @property
    def path(self) -> Path:
        """The folder on disk."""
        assert not self.is_remote
        return Path(self.location)

    def make(self) -> None:
        """Make the folder, if it is not there; a store has no folders to make."""
        if not self.is_remote:
            make_folder(self.path)

    def names(self) -> list[str]:
        """Names of the files and folders inside, sorted."""
        self._store.invalidate_cache()  # other processes write here too
        if not self._store.isdir(self._root):
            return []
        found = self._store.ls(self._root, detail=False)
        return sorted(each.rstrip("/").rsplit("/", 1)[-1] for each in found)

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is no such file."""
        self._store.invalidate_cache()
        url = self._url(name)
        try:
            return int(self._store.size(url)) if self._store.isfile(url) else None
        except FileNotFoundError:  # deleted meanwhile
            return None

    def read(self, name: str) -> bytes:
        """All of a file.

        Raises:
            FileNotFoundError: if there is none.
        """
        return bytes(self._store.cat_file(self._url(name)))

    def write(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all."""
        with self.writing(name) as path:
            path.write_bytes(data)

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """A local path to fill, which becomes the file when the block ends without an error.

        Raises:
            UserError: if there is no room, or the location cannot be written.
        """
        if not self.is_remote:
            with whole_file(self.path / name) as path:
                yield path
            return
        try:
            with tempfile.TemporaryDirectory(prefix="semhitok-") as folder:
                yield Path(folder, name)
                self._store.put_file(str(Path(folder, name)), self._url(name))
        except OSError as error:
            raise UserError(
                f"cannot write {self.location}/{name}: {error.strerror or error}; make room or "
                "choose another folder, then run the same command again to resume"
            ) from error

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        """A local path that holds the file for as long as the block lasts."""
        if not self.is_remote:
            yield self.path / name
            return
        with tempfile.TemporaryDirectory(prefix="semhitok-") as folder:
            self._store.get_file(self._url(name), str(Path(folder, name)))
            yield Path(folder, name)

    def copy(self, name: str, other: "Storage", other_name: str) -> None:
        """Put a file into another folder; on one disk as a second name of the same bytes."""
        if self.is_remote and other._store is self._store:
            self._store.cp_file(self._url(name), other._url(other_name))
            return
        with self.reading(name) as source, other.writing(other_name) as target:
            try:
                os.link(source, target)
            except OSError:  # another disk, or one without links
                shutil.copyfile(source, target)

    def delete(self, name: str) -> None:
        """Delete a file, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self._store.rm_file(self._url(name))

    def delete_all(self) -> None:
        """Delete the folder with everything inside; another rank may be at it too."""
        with contextlib.suppress(OSError):
            while self._store.isdir(self._root):
                with contextlib.suppress(FileNotFoundError):
                    self._store.rm(self._root, recursive=True)

    def _url(self, name: str) -> str:
        return f"{str(self._root).rstrip('/')}/{name}"


def _open_store(location: str) -> tuple[Any, str]:
    """The file system of fsspec that a location is in, and the location's name there."""
    import fsspec

    if is_remote(location):
        return fsspec.core.url_to_fs(location)
    # fsspec would give a `::` or a `*` in a name on disk a meaning of its own.
    return fsspec.filesystem("file"), os.path.abspath(location.removeprefix("file://"))
