"""YAML config files: read with a base and overrides into typed dataclasses, and written back.

base: ../quickstart/mllm.yaml     # optional; relative to this file, overridden deeply
training:
  learning_rate: 1e-3             # `training.learning_rate=2e-3` on the command line wins
"""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from runtime.config_fields import build_config, to_dict
from runtime.errors import UserError
from runtime.files import write_text

__all__ = [
    "build_config", "load_config", "merge", "override", "read_values", "save_config", "to_dict",
]  # fmt: skip

T = TypeVar("T")


def load_config(config_class: type[T], path: str | Path | None, overrides: Sequence[str] = ()) -> T:
    """Read a config file into a typed, possibly nested dataclass.

    Args:
        config_class: the dataclass; its annotations are the schema.
        path: a YAML file, or None to start from the defaults alone.
        overrides: `key.sub=value` strings, later ones winning; each value is read as YAML.

    Raises:
        UserError: for a missing file, broken YAML, an unknown or missing key, a wrong type, or
            values that the dataclass refuses.
    """
    values = read_values(Path(path)) if path is not None else {}
    values = override(values, overrides)
    where = str(path) if path is not None else "the config"
    if overrides:
        where += f" (with {' '.join(overrides)})"
    return build_config(config_class, values, where)


def save_config(config: Any, path: str | Path) -> Path:
    """Write a dataclass as YAML that `load_config` reads back into an equal one."""
    text = yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)
    return write_text(path, text)


class _UniqueKeyLoader(yaml.SafeLoader):
    """Refuses a key given twice; plain PyYAML silently keeps the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f'the key "{key_node.value}" is given twice', key_node.start_mark
                )
            if isinstance(key_node, yaml.ScalarNode):
                seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def read_values(path: Path, children: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The values of one file over those of its base, and of the base's base, unchecked."""
    if path.resolve() in children:
        raise UserError(f"{path} is its own base; remove one of the `base:` lines")
    values = _read_yaml(path)
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise UserError(f'{path}: "base" must be the name of a YAML file, not {base!r}')
    base_values = read_values(path.parent / base, (*children, path.resolve()))
    return merge(base_values, values)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"no such config file: {path}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a YAML file: it is not UTF-8 text") from error
    except OSError as error:
        raise UserError(f"cannot read the config file {path}: {error.strerror}") from error
    try:
        values = yaml.load(text, _UniqueKeyLoader)
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {_explain(error)}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold `key: value` lines, not a {type(values).__name__}")
    return values


def _explain(error: yaml.YAMLError) -> str:
    """The line and the problem of a YAML error, in one line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}, {error.problem}"
    return str(error).splitlines()[0]


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` over `below`: sections are merged key by key, anything else is replaced."""
    merged = dict(below)
    for key, value in above.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def override(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of nested values with `key.sub=value` texts written into it, unchecked."""
    changed: dict[str, Any] = copy.deepcopy(dict(values))
    for text in overrides:
        _apply_override(changed, text)
    return changed


def _apply_override(values: dict[str, Any], text: str) -> None:
    """Set one `key.sub=value` in place."""
    dotted, equals, given = text.partition("=")
    parts = dotted.strip().split(".")
    if not equals or not all(parts):
        raise UserError(f'cannot read the override "{text}"; write it as key.sub=value')
    try:
        value = yaml.load(given, _UniqueKeyLoader)
    except yaml.YAMLError as error:
        raise UserError(f'the value of the override "{text}" is not valid YAML') from error
    section = values
    for depth, part in enumerate(parts[:-1], start=1):
        if section.get(part) is None:
            section[part] = {}
        section = section[part]
        if not isinstance(section, dict):
            name = ".".join(parts[:depth])
            raise UserError(
                f'cannot apply the override "{text}": "{name}" holds no keys; override it whole'
            )
    section[parts[-1]] = value
