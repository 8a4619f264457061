"""Names of files and ids, as different systems write them."""

import unicodedata
from collections.abc import Iterable
from pathlib import Path


def one_form(name: str) -> str:
    """A name in Unicode form NFC: macOS writes "é" as two characters where others write one."""
    return unicodedata.normalize("NFC", name)


def sorted_files(paths: Iterable[Path]) -> list[Path]:
    """Paths in order, without what macOS leaves beside files (`._one.txt`, `__MACOSX/`)."""
    return sorted(
        path
        for path in paths
        if not path.name.startswith(("._", ".DS_Store")) and "__MACOSX" not in path.parts
    )
