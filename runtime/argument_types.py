"""What the command line checks before anything heavy is imported, so that a slip costs no wait.

Each function is an argparse `type`: it takes the text of one argument and returns its value, or
says in one sentence what is wrong with it.
"""

import os
import re
from argparse import ArgumentTypeError
from pathlib import Path

from runtime.files import is_whole_text


def positive_int(text: str) -> int:
    """A whole number above 0."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise ArgumentTypeError(f"give a whole number above 0, not {text!r}")
    return value


def non_negative_int(text: str) -> int:
    """A whole number, 0 or more."""
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise ArgumentTypeError(f"give a whole number, 0 or more, not {text!r}")
    if value >= 2**63:  # seeds among others are 64 bits wide
        raise ArgumentTypeError(f"give a whole number of at most {2**63 - 1}, not {text!r}")
    return value


def non_negative_float(text: str) -> float:
    """A finite number, 0 or more."""
    value = _float(text)
    if not 0 <= value < float("inf"):
        raise ArgumentTypeError(f"give a number, 0 or more, not {text!r}")
    return value


def probability(text: str) -> float:
    """A number above 0 and at most 1."""
    value = _float(text)
    if not 0 < value <= 1:
        raise ArgumentTypeError(f"give a number above 0 and at most 1, not {text!r}")
    return value


def fraction(text: str) -> float:
    """A number from 0 to 1."""
    value = _float(text)
    if not 0 <= value <= 1:
        raise ArgumentTypeError(f"give a number from 0 to 1, not {text!r}")
    return value


def memory_size(text: str) -> int:
    """Bytes, written as 80G or 80GB (10⁹ each) or 80GiB (2³⁰ each); M and MiB likewise."""
    found = re.fullmatch(r"([0-9.]+)\s*(G|GB|GiB|M|MB|MiB)", text.strip())
    value = _float(found[1]) if found else float("nan")
    if found is None or not value > 0:
        raise ArgumentTypeError(f"give a size such as 80G or 80GiB, not {text!r}")
    unit = {"G": (10**9, 2**30), "M": (10**6, 2**20)}[found[2][0]]
    return int(value * unit[found[2].endswith("iB")])


def new_file(text: str) -> Path:
    """A file that can be written, in a folder that is there."""
    path = _path(text)
    if not path.name or os.path.isdir(path):
        raise ArgumentTypeError(f"{text!r} is a folder; name a file")
    existing_folder(str(path.parent))
    return path


def words(text: str) -> str:
    """A text that says something."""
    if not text.strip():
        raise ArgumentTypeError("the text is empty; write at least one word")
    if not is_whole_text(text):
        raise ArgumentTypeError("the text is not UTF-8; write it anew")
    return text


def names(text: str) -> list[str]:
    """Names with commas between them."""
    found = [name.strip() for name in text.split(",")]
    if not all(found) or len(set(found)) < len(found):
        raise ArgumentTypeError(f"give different names with commas between them, not {text!r}")
    return [words(name) for name in found]


def set_distances(text: str) -> list[str]:
    """Of frechet and kid."""
    found = names(text)
    for name in found:
        if name not in ("frechet", "kid"):
            raise ArgumentTypeError(f"{name!r} is no distance of sets; give frechet, kid or both")
    return found


def existing_file(text: str) -> Path:
    """A file that is there and can be read."""
    path = _path(text)
    if os.path.isdir(path):
        raise ArgumentTypeError(f"{text} is a folder; name a file")
    if not os.path.isfile(path):
        if os.path.exists(path):  # <(...) of a shell, which can be read but once
            raise ArgumentTypeError(f"{text} is a pipe or a device; name a file")
        raise ArgumentTypeError(f"no such file: {text}")
    if not os.access(path, os.R_OK):
        raise ArgumentTypeError(f"{text} cannot be read; check its permissions")
    return path


def existing_path(text: str) -> Path:
    """A file or folder that is there."""
    path = _path(text)
    if not os.path.exists(path):
        raise ArgumentTypeError(f"no such file or folder: {text}")
    return path


def existing_folder(text: str) -> Path:
    """A folder that is there."""
    path = _path(text)
    if os.path.isfile(path):
        raise ArgumentTypeError(f"{text} is a file; name a folder")
    if not os.path.isdir(path):
        raise ArgumentTypeError(f"no such folder: {text}")
    return path


def existing_place(text: str) -> Path | str:
    """A folder that is there, or the URL of one, which only opening it tells."""
    return text if "://" in text else existing_folder(text)


def model_folder(text: str) -> Path:
    """A folder that `save_pretrained` wrote."""
    path = existing_folder(text)
    if not (path / "config.json").is_file():
        inside = path / "model"
        hint = f"did you mean {inside}?" if (inside / "config.json").is_file() else "name another"
        raise ArgumentTypeError(f"{text} holds no model (there is no config.json); {hint}")
    return path


def config_file(text: str) -> Path:
    """A YAML file; `configs/...` is also found beside the installed packages."""
    path = _path(text)
    shipped = Path(__file__).parents[1] / path
    if path.parts[:1] == ("configs",) and not os.path.exists(path) and shipped.is_file():
        return shipped
    return existing_file(text)


def prompts_file(text: str) -> Path:
    """A file of prompts: parquet, or text that is not blank; "-" is standard input."""
    if text == "-":
        return Path(text)
    path = existing_file(text)
    if path.suffix == ".parquet":
        return path
    try:
        with open(path, encoding="utf-8-sig") as file:
            has_prompt = any(line.strip() for line in file)
    except UnicodeDecodeError as error:
        raise ArgumentTypeError(f"{text} is not UTF-8 text; give one prompt a line") from error
    if not has_prompt:
        raise ArgumentTypeError(f"{text} is empty; give one prompt a line")
    return path


def output_place(text: str) -> Path | str:
    """A folder as `output_folder` takes it, or the URL of one in an object store."""
    return text if "://" in text else output_folder(text)


def share(text: str) -> float:
    """A number of at least 0 and below 1."""
    value = _float(text)
    if not 0 <= value < 1:
        raise ArgumentTypeError(f"give a number of at least 0 and below 1, not {text!r}")
    return value


def output_folder(text: str) -> Path:
    """A folder that is there, or can be made."""
    if not text.strip():
        raise ArgumentTypeError("the name is empty; name a folder")
    path = _path(text)
    nearest = next(place for place in (path, *path.absolute().parents) if os.path.exists(place))
    if not nearest.is_dir():
        raise ArgumentTypeError(f"{nearest} is a file, not a folder; choose another folder")
    if not os.access(nearest, os.W_OK):
        raise ArgumentTypeError(f"{nearest} cannot be written; choose another folder")
    return path


def data_source(text: str) -> str:
    """A folder of images, or a source by name or KIND:PATH, which only `prepare` itself knows."""
    if re.match(r"[a-z0-9]+:", text):
        return text
    looks_like_path = "/" in text or text.startswith((".", "~"))
    if looks_like_path or os.path.exists(text):
        return str(existing_folder(text))
    return words(text)


def override(text: str) -> str:
    """A setting in place of the config file's, as `key.sub=value`."""
    key, equals, _ = text.partition("=")
    if not equals or not key.strip():
        raise ArgumentTypeError(f"write an override as key.sub=value, not {text!r}")
    return text


def _path(text: str) -> Path:
    """The path with `~` expanded.

    The checks above ask `os.path`, which calls a name that is too long or holds a null byte simply
    absent; the methods of `Path` raise.
    """
    return Path(os.path.expanduser(text))


def _float(text: str) -> float:
    """The number, or a NaN that no range holds."""
    try:
        return float(text)
    except ValueError:
        return float("nan")
