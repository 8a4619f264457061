"""YAML files as plain values: with a base file below them, and overrides above.

    base: ../quickstart/mllm.yaml     # optional; relative to this file, overridden deeply
    training:
      learning_rate: 1e-3             # `training.learning_rate=2e-3` on the command line wins

Plain values mean what YAML 1.2 says: `on`, `no`, `1_000` and `2026-11-30` are texts, `1e-3` is a
number. PyYAML itself speaks YAML 1.1, where each is something else.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from runtime.errors import UserError

PACKAGE_CONFIGS = Path(__file__).parents[1] / "semhitok" / "configs"
CHECKOUT_CONFIGS = Path(__file__).parents[1] / "configs"


class _Loader(yaml.SafeLoader):
    """The core schema of YAML 1.2; a key given twice is refused instead of the last one winning."""

    yaml_implicit_resolvers: dict[str, Any] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f'the key "{key_node.value}" is given twice', key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


_FLOAT = (
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$"
        r"|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"
    ),
    [*"-+.0123456789"],
)
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", [*"~nN", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    ("int", r"[-+]?[0-9]+", [*"-+0123456789"]),
    ("merge", "<<", ["<"]),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first
    )
_Loader.add_implicit_resolver(*_FLOAT)
# PyYAML would read the octal and base-60 numbers of YAML 1.1.
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(str(node.value)))


class _Dumper(yaml.SafeDumper):
    """Quotes texts that either version of YAML would read as something else."""


_Dumper.add_implicit_resolver(*_FLOAT)


def dump_values(values: Mapping[str, Any]) -> str:
    """Plain values as YAML that `read_values` reads back."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def read_values(path: Path) -> dict[str, Any]:
    """The values of a YAML file, over those of its `base`.

    Raises:
        UserError: if a file is missing or broken, or is its own base.
    """
    return _read(path, ())


def shipped_configs() -> Path:
    """The folder of shipped YAML files: in the installed package, or in a checkout."""
    return PACKAGE_CONFIGS if PACKAGE_CONFIGS.is_dir() else CHECKOUT_CONFIGS


def find_config(name: str, folder: Path = Path()) -> Path:
    """The file that a YAML file in `folder` means by a name, else the shipped file of that name.

    A copy of a shipped file may lie anywhere: `../quickstart/mllm.yaml` and
    `configs/quickstart/mllm.yaml` mean the shipped file where there is no such file.
    """
    path = folder / Path(name).expanduser()
    if not path.exists() and not Path(name).is_absolute():
        parts = [part for part in Path(name).parts if part not in ("..", "configs")]
        if (shipped := shipped_configs().joinpath(*parts)).is_file():
            return shipped
    return path


def _read(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in above:
        raise UserError(f"{path} is its own base, directly or through other files")
    values = _load(path)
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise UserError(f"{path}: base must name a file, not {base!r}")
    return merge(_read(find_config(base, path.parent), (*above, path.resolve())), values)


def _load(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"no such config file: {path}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text") from error
    except OSError as error:
        raise UserError(f"cannot read the config file {path}: {error.strerror}") from error
    try:
        values = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {_problem(error)}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold `key: value` lines, not a {type(values).__name__}")
    return values


def _problem(error: yaml.YAMLError) -> str:
    """The line and the problem of a YAML error, in one line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}, {error.problem}"
    return str(error).splitlines()[0]


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` over `below`: sections are merged key by key, anything else is replaced."""
    merged = {**below, **above}
    for key, value in above.items():
        if isinstance(value, Mapping) and isinstance(below.get(key), Mapping):
            merged[key] = merge(below[key], value)
    return merged


def split_override(text: str) -> tuple[list[str], str]:
    """The keys and the value of `key.sub=value`.

    Raises:
        UserError: if it is not written so.
    """
    dotted, equals, given = text.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise UserError(f'cannot read the override "{text}"; write it as key.sub=value')
    return keys, given


def apply_override(
    values: dict[str, Any], text: str, keys: list[str], given: str, as_text: bool
) -> None:
    """Write one override, whose whole text is for errors, into nested values, in place.

    Where the setting is text (`as_text`), only `null` means something else than itself.

    Raises:
        UserError: if the value is not valid YAML, or a key on the way holds no keys.
    """
    value: Any = None if given == "null" else given
    if not as_text:
        try:
            value = yaml.load(given, _Loader)
        except yaml.YAMLError as error:
            raise UserError(f'the value of the override "{text}" is not valid YAML') from error
    section = values
    for depth, key in enumerate(keys[:-1], start=1):
        if section.get(key) is None:
            section[key] = {}
        section = section[key]
        if not isinstance(section, dict):
            name = ".".join(keys[:depth])
            raise UserError(
                f'cannot apply the override "{text}": "{name}" holds no keys; override it whole'
            )
    section[keys[-1]] = value
