"""Plain mappings to typed dataclasses and back, with errors that name the key and the mend."""

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from runtime.errors import UserError
from runtime.settings import Settings, build_settings
from runtime.settings import to_dict as settings_to_dict

T = TypeVar("T")

# YAML 1.1, which PyYAML speaks, wants a dot in a float, so the plain `1e-3` arrives as a string.
EXPONENT_FLOAT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


def build_config(config_class: type[T], mapping: Mapping[str, Any], where: str) -> T:
    """Make a (nested) dataclass from plain values, checking every name and type.

    Args:
        config_class: the dataclass to build; a field without a default is required.
        mapping: as read from YAML or JSON.
        where: the name of the source, for errors.

    Raises:
        UserError: for an unknown key, a wrong type, a missing key, or a ValueError of the
            dataclass's own `__post_init__`.
    """
    return _Builder(config_class, where).dataclass(config_class, mapping, "")


def to_dict(config: Any) -> dict[str, Any]:
    """The plain values of a config, which `build_config` turns back into an equal one.

    Args:
        config: a dataclass instance, or a mapping whose paths and tuples become plain.
    """
    if isinstance(config, Settings):
        return settings_to_dict(config)
    if isinstance(config, Mapping):
        return {str(key): _plain(value) for key, value in config.items()}
    return {
        field.name: _plain(getattr(config, field.name))
        for field in dataclasses.fields(config)
        if field.init
    }


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) or isinstance(value, Settings):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a config holds plain values, not {type(value).__name__}")


class _Mismatch(Exception):
    """A value that does not fit its annotation; a union catches it and tries its next member."""


class _Builder:
    """Walks a mapping along the annotations of a dataclass, keeping the path for errors."""

    def __init__(self, root_class: type, where: str):
        self.root_class = root_class
        self.where = where

    def dataclass(self, config_class: type[T], value: Any, path: str) -> T:
        if isinstance(value, config_class):
            return value
        if not isinstance(value, Mapping):
            raise self.wrong_type(path, f"a mapping of {config_class.__name__} settings", value)
        hints = typing.get_type_hints(config_class)
        fields = [field for field in dataclasses.fields(config_class) if field.init]  # type: ignore[arg-type]
        names = [field.name for field in fields]
        for key in value:
            if key not in names:
                raise self.unknown_key(str(key), names, path)
        for field in fields:
            if field.name not in value and _is_required(field):
                raise UserError(
                    f'{self.where}: required key "{_join(path, field.name)}" is missing'
                )
        arguments = {
            key: self.convert(hints[key], item, _join(path, key)) for key, item in value.items()
        }
        try:
            return config_class(**arguments)
        except ValueError as error:  # of __post_init__
            section = f'"{path}": ' if path else ""
            raise UserError(f"{self.where}: {section}{error}") from error

    def settings(self, hint: type[Settings], value: Any, path: str) -> Settings:
        if isinstance(value, hint):
            return value
        if not isinstance(value, Mapping):
            raise self.wrong_type(path, f"a mapping of {hint.__name__} settings", value)
        return build_settings(hint, value, f"{self.where}: {path}")

    def convert(self, hint: Any, value: Any, path: str) -> Any:
        """`value` as the annotation `hint` wants it."""
        try:
            return self.match(hint, value, path)
        except _Mismatch:
            raise self.wrong_type(path, _describe(hint), value) from None

    def match(self, hint: Any, value: Any, path: str) -> Any:
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if hint is Any:
            return value
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            return self.dataclass(hint, value, path)
        if isinstance(hint, type) and issubclass(hint, Settings):
            return self.settings(hint, value, path)
        if origin in (Union, types.UnionType):
            return self.union(arguments, value, path)
        if origin is Literal:
            return self.literal(arguments, value, path)
        if hint is list or origin is list:
            (item_hint,) = arguments or (Any,)
            return self.items([item_hint] * _length(value), value, path)
        if hint is tuple or origin is tuple:
            item_hints = list(arguments or (Any, ...))
            if item_hints[1:] == [...]:
                item_hints = [item_hints[0]] * _length(value)
            return tuple(self.items(item_hints, value, path))
        if hint is dict or origin is dict:
            if not isinstance(value, Mapping):
                raise _Mismatch
            key_hint, item_hint = arguments or (Any, Any)
            return {
                self.convert(key_hint, key, path): self.convert(item_hint, item, _join(path, key))
                for key, item in value.items()
            }
        return _scalar(hint, value)

    def union(self, members: tuple[Any, ...], value: Any, path: str) -> Any:
        if value is None and type(None) in members:
            return None
        others = [member for member in members if member is not type(None)]
        if len(others) == 1:  # `X | None`: the error speaks of X's own keys
            return self.match(others[0], value, path)
        for member in others:
            # A section may fit one of several dataclasses, so a user's error also means: go on.
            try:
                return self.match(member, value, path)
            except (_Mismatch, UserError):
                continue
        raise _Mismatch

    def literal(self, choices: tuple[Any, ...], value: Any, path: str) -> Any:
        for choice in choices:
            if choice == value and type(choice) is type(value):  # True == 1 is no match
                return choice
        near = difflib.get_close_matches(str(value), [str(choice) for choice in choices], n=1)
        hint = f'; did you mean "{near[0]}"?' if near else ""
        listed = ", ".join(str(choice) for choice in choices)
        raise UserError(f'{self.where}: "{path}" must be one of {listed}, not {value!r}{hint}')

    def items(self, hints: list[Any], value: Any, path: str) -> list[Any]:
        if not isinstance(value, (list, tuple)) or len(value) != len(hints):
            raise _Mismatch
        pairs = zip(hints, value, strict=True)
        return [self.convert(hint, item, f"{path}[{i}]") for i, (hint, item) in enumerate(pairs)]

    def wrong_type(self, path: str, expected: str, value: Any) -> UserError:
        shown = "null" if value is None else f"{type(value).__name__} {value!r}"
        subject = f'"{path}"' if path else "the config"
        return UserError(f"{self.where}: {subject} must be {expected}, not {shown}")

    def unknown_key(self, key: str, siblings: list[str], path: str) -> UserError:
        message = f'{self.where}: unknown key "{_join(path, key)}"'
        near = difflib.get_close_matches(key, siblings, n=1)
        if near:
            return UserError(f'{message}; did you mean "{_join(path, near[0])}"?')
        # Perhaps the right name in the wrong section: look at the last part of every known key.
        leaves: dict[str, str] = {}
        for known in _dotted_keys(self.root_class):
            leaves.setdefault(known.rpartition(".")[2], known)
        near = difflib.get_close_matches(key, list(leaves), n=1)
        if near:
            return UserError(f'{message}; did you mean "{leaves[near[0]]}"?')
        return UserError(f"{message}; known keys here are {', '.join(siblings)}")


def _scalar(hint: Any, value: Any) -> Any:
    """`value` as a plain type; a bool is never a number, an int may stand for a float."""
    if hint is float:
        if isinstance(value, str) and EXPONENT_FLOAT.fullmatch(value):
            return float(value)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
    elif hint is Path:
        if isinstance(value, (str, Path)):
            return Path(value).expanduser()
    elif isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise _Mismatch


def _dotted_keys(config_class: type, prefix: str = "") -> list[str]:
    """Every key that a config may hold, such as `optimizer.learning_rate`."""
    keys = []
    hints = typing.get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        if not field.init:
            continue
        keys.append(_join(prefix, field.name))
        for hint in (hints[field.name], *typing.get_args(hints[field.name])):
            if dataclasses.is_dataclass(hint) and isinstance(hint, type):
                keys.extend(_dotted_keys(hint, _join(prefix, field.name)))
    return keys


def _describe(hint: Any) -> str:
    """An annotation as a reader of YAML would say it."""
    if hint is type(None):
        return "null"
    if typing.get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_describe(member) for member in typing.get_args(hint))
    if typing.get_origin(hint) is None and isinstance(hint, type):
        return "a path" if hint is Path else hint.__name__
    return str(hint).replace("typing.", "").replace("pathlib.", "")


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _length(value: Any) -> int:
    return len(value) if isinstance(value, (list, tuple)) else 0


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)
