"""Images that a row of a hub data set names: read out of that data set's own files, no others.

Data sets laid out as folders of images hold paths in place of bytes. `datasets` makes most of them,
but a table can hold any it likes, such as `/etc/passwd`.
"""

import os
import zipfile
from pathlib import Path

from data_pipelines.images import MAX_FILE_SIZE
from data_pipelines.safe_files import check_name, read_inside
from runtime.errors import UserError, says


class HubFiles:
    """The files of a data set on the hub, or of a local folder laid out as one."""

    def __init__(self, name: str) -> None:
        folder = Path(name).expanduser()
        if not folder.is_dir():
            from huggingface_hub.constants import HF_HUB_CACHE
            from huggingface_hub.file_download import repo_folder_name

            # Names in `snapshots/REVISION` below it are links to `blobs`, also below it.
            folder = Path(HF_HUB_CACHE, repo_folder_name(repo_id=name, repo_type="dataset"))
        self.folder = folder.absolute()
        self.url = f"hf://datasets/{name}@"

    def has(self, path: str) -> bool:
        """Whether it is a path as `datasets` makes them, and no name for the user to explain."""
        return "://" in path or os.path.isabs(path)

    def read(self, path: str) -> bytes:
        """Read the file of a path.

        It is absolute; where the data set is streamed, `hf://datasets/NAME@REVISION/...`; or
        `zip://MEMBER::PATH` with one of these. A `ValueError`, in one clause, if it is not of this
        data set, not there, or too large; a `UserError` if the hub cannot be reached.
        """
        member, *containers = path.split("::")
        target = containers[-1] if containers else member
        if len(containers) > 1 or (containers and not member.startswith("zip://")):
            raise ValueError("its image lies in an archive of an unknown kind")
        if target.startswith(self.url) and ".." not in target.split("/"):
            return self._open(path)
        if "://" in target or not Path(os.path.realpath(target)).is_relative_to(
            os.path.realpath(self.folder)
        ):
            raise ValueError(f"its image is no file of the data set ({target[:100]})")
        if containers:
            check_name(member.removeprefix("zip://"))
            return self._open(path)
        return read_inside(self.folder, Path(target), MAX_FILE_SIZE)

    def _open(self, path: str) -> bytes:
        """Read what fsspec reaches, out of an archive or through the network."""
        import fsspec

        try:
            with fsspec.open(path, "rb") as file:
                data = bytes(file.read(MAX_FILE_SIZE + 1))
        except FileNotFoundError:
            raise ValueError(
                f"{path.split('::')[0].rsplit('/', 1)[-1][:100]} is not there"
            ) from None
        except zipfile.BadZipFile as error:
            raise ValueError(f"its archive cannot be read ({error})") from error
        except Exception as error:
            raise UserError(
                f"{path} cannot be read ({says(error)}): run the same command again to resume"
            ) from error
        if len(data) > MAX_FILE_SIZE:
            raise ValueError(f"its image has more bytes than the limit of {MAX_FILE_SIZE:,}")
        return data
