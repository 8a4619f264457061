"""Settings: typed groups of values with their documentation, checked by pydantic.

A task declares its settings once, and the command line, YAML files and Python share them:

    class PaintSettings(Settings):
        out: OutputFolder
        '''Folder to write.'''
        num_images: PositiveInt = 1
        '''Drawings of each prompt.'''

The docstring under a field is its help text. An error is one sentence that names the key, and for a
misspelt key the nearest one.
"""

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from runtime.errors import UserError, one_line
from runtime.files import write_text
from runtime.yaml_values import apply_override, dump_values, merge, read_values, split_override

LearningRate = Annotated[float, Field(gt=0, le=1e30)]
"""Optimisers divide it by small numbers, and float32 ends at 3e38."""
Fraction = Annotated[float, Field(ge=0, le=1)]
"""A number from 0 to 1."""
Probability = Annotated[float, Field(gt=0, le=1)]
"""A number above 0 and at most 1."""
BatchSize = Annotated[int, Field(gt=0, le=1024)]
"""How many things a network looks at together; more would take memory and save no time."""
Decay = Annotated[float, Field(ge=0, lt=1)]
"""A number from 0 to below 1, as the weight of the past in a moving average."""
Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""A seed, which numpy limits to 32 bits."""

S = TypeVar("S", bound="Settings")
Location = tuple[int | str, ...]
Values = Mapping[str, Any]


@dataclass(frozen=True)
class Option:
    """How a field looks on the command line, where its type does not say it."""

    metavar: str | None = None
    """What stands for the value in the help text."""
    positional: bool = False
    """Whether it is written without a name."""
    commas: bool = False
    """Whether a list is one argument, with commas between its entries."""
    one_each: bool = False
    """Whether each entry of a list is an option of its own; several words are then no list."""


class Settings(BaseModel):
    """Base class of all settings."""

    model_config = ConfigDict(
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        ser_json_inf_nan="constants",
    )

    renamed: ClassVar[Mapping[str, str]] = {}
    """Former names of keys, each with the present one."""

    @classmethod
    def from_values(
        cls, values: Values, overrides: Sequence[str], where: str, folder: Path, above: Values
    ) -> Self:
        """Settings from plain values, with `key.sub=value` strings written over them.

        Args:
            values: of a file.
            overrides: as of `load_settings`.
            where: names the source of the values in errors.
            folder: of the file, for names that are relative to it.
            above: values over those of the file.

        Raises:
            UserError: as `load_settings`.
        """
        return _with_overrides(cls, merge(values, above), overrides, where)


def load_settings(
    settings_class: type[S], path: str | Path | None, overrides: Sequence[str] = ()
) -> S:
    """Read a YAML file into settings.

    Args:
        settings_class: what the file holds.
        path: the file, or None to start from the defaults alone.
        overrides: `key.sub=value` strings, later ones winning. A value is text where the setting is
            text or a path, and YAML elsewhere.

    Raises:
        UserError: for a missing file, broken YAML, an unknown or missing key, a wrong type, or a
            value out of range.
    """
    if path is None:
        return settings_class.from_values({}, overrides, "the settings", Path(), {})
    path = Path(path)
    return settings_class.from_values(read_values(path), overrides, str(path), path.parent, {})


def _with_overrides(
    settings_class: type[S], values: Mapping[str, Any], overrides: Sequence[str], where: str
) -> S:
    changed = json.loads(_to_json(values, where))
    for text in overrides:
        keys, given = split_override(text)
        apply_override(changed, text, keys, given, as_text=_holds_text(settings_class, keys))
    if overrides:
        where += f" (with {' '.join(overrides)})"
    return build_settings(settings_class, changed, where)


def build_settings(settings_class: type[S], values: Mapping[str, Any], where: str) -> S:
    """Settings from plain values, as YAML and JSON hold them; `where` names their source in errors.

    Raises:
        UserError: one sentence about the first thing that is wrong.
    """
    try:
        return settings_class.model_validate_json(_to_json(values, where), strict=True)
    except ValidationError as error:
        raise UserError(f"{where}: {explain(error, settings_class)}") from error


def explain(error: ValidationError, settings_class: type[Settings], option: bool = False) -> str:
    """What is wrong, in one sentence without its full stop.

    With `option` it names command-line options, such as `--num-images`, in place of keys.
    """
    details = error.errors(include_url=False)
    # A misspelt key also leaves the right one missing; the misspelling is what helps.
    details.sort(key=lambda detail: detail["type"] != "extra_forbidden")
    return _explain_one(details[0], settings_class, option)


def to_dict(settings: Settings | Mapping[str, Any]) -> dict[str, Any]:
    """Plain values, which `build_settings` turns back into equal settings."""
    if isinstance(settings, Settings):
        return settings.model_dump(mode="json")
    return json.loads(_to_json(settings, "the settings"))


def save_settings(settings: Settings | Mapping[str, Any], path: str | Path) -> Path:
    """Write YAML that `load_settings` reads back into equal settings."""
    return write_text(path, dump_values(to_dict(settings)))


def nested(annotation: Any) -> type[Settings] | None:
    """The settings class inside of an annotation such as `X | None` or `list[X]`, if any."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return annotation
    return next((found for part in get_args(annotation) if (found := nested(part))), None)


def _to_json(values: Any, where: str) -> str:
    try:
        return json.dumps(values, default=_plain)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: settings hold plain values only ({error})") from error


def _plain(value: Any) -> Any:
    if isinstance(value, Settings):
        return to_dict(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"not {type(value).__name__}")


def _explain_one(detail: ErrorDetails, settings_class: type[Settings], option: bool) -> str:
    kind, location, given = detail["type"], detail["loc"], detail["input"]
    key = _dotted(location)
    name = _option_name(settings_class, location) if option and key else f'"{key}"'
    if kind == "missing":
        return f"{name} is required" if option else f"required key {name} is missing"
    if kind == "extra_forbidden":
        return _unknown_key(key, settings_class)
    if kind in ("value_error", "assertion_error"):
        said = one_line(detail["ctx"]["error"]).removesuffix(".")
        is_group = option and nested(_field_at(settings_class, location)) is not None
        return said if is_group or not key else f"{name}: {said}"
    if kind == "literal_error":
        choices = [str(choice) for choice in _choices(_field_at(settings_class, location))]
        near = difflib.get_close_matches(str(given), choices, n=1)
        hint = f'; did you mean "{near[0]}"?' if near else ""
        return f"{name} must be one of {', '.join(choices)}, not {given!r}{hint}"
    shown = "null" if given is None else one_line(repr(given))[:80]
    expected = detail["msg"][0].lower() + detail["msg"][1:]
    return f"{name} must be {expected.removeprefix('input should be ')}, not {shown}"


def _option_name(settings_class: type[Settings], location: Location) -> str:
    """How the command line calls a field: `--num-images`, or SOURCES for a positional one."""
    keys = [part for part in location if isinstance(part, str)]
    field = settings_class.model_fields.get(keys[0])
    looks = [part for part in (field.metadata if field else ()) if isinstance(part, Option)]
    if looks and looks[0].positional:
        return looks[0].metavar or keys[0].upper()
    return f"--{keys[-1].replace('_', '-')}"


def _unknown_key(key: str, settings_class: type[Settings]) -> str:
    parent, _, leaf = key.rpartition(".")
    plain_parent = parent.replace("]", "").partition("[")[0]
    known = dict(_keys(settings_class))
    owner = known.get(plain_parent) if plain_parent else settings_class
    if owner is not None and leaf in owner.renamed:
        return f'"{key}" is called "{owner.renamed[leaf]}" now'
    siblings = list(owner.model_fields) if owner is not None else []
    if near := difflib.get_close_matches(leaf, siblings, n=1):
        return f'unknown key "{key}"; did you mean "{parent + "." if parent else ""}{near[0]}"?'
    # Perhaps the right name in the wrong section.
    leaves = {dotted.rpartition(".")[2]: dotted for dotted in reversed(known)}
    if near := difflib.get_close_matches(leaf, list(leaves), n=1):
        return f'unknown key "{key}"; did you mean "{leaves[near[0]]}"?'
    return f'unknown key "{key}"; known keys here are {", ".join(siblings)}'


def _keys(settings_class: type[Settings], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every dotted key, with the settings class that it holds, if any."""
    for name, field in settings_class.model_fields.items():
        inside = nested(field.annotation)
        yield prefix + name, inside
        if inside is not None:
            yield from _keys(inside, f"{prefix}{name}.")


def _field_at(settings_class: type[Settings], keys: Sequence[int | str]) -> Any:
    """The annotation of the field at a path, or None where there is none."""
    owner: type[Settings] | None = settings_class
    annotation = None
    for key in keys:
        if isinstance(key, int):
            continue
        if owner is None or key not in owner.model_fields:
            return None
        annotation = owner.model_fields[key].annotation
        owner = nested(annotation)
    return annotation


def _choices(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    else:
        for part in get_args(annotation):
            yield from _choices(part)


def _holds_text(settings_class: type[Settings], keys: Sequence[str]) -> bool:
    """Whether the setting is text, a path or a choice of texts, perhaps null, and nothing else."""

    def is_text(annotation: Any) -> bool:
        if annotation in (str, Path, type(None)):
            return True
        if get_origin(annotation) is Literal:
            return all(isinstance(choice, str) for choice in get_args(annotation))
        if get_origin(annotation) is Annotated:
            return is_text(get_args(annotation)[0])
        parts = get_args(annotation)
        is_union = get_origin(annotation) not in (None, list, tuple, dict)
        return bool(parts) and is_union and all(map(is_text, parts))

    return is_text(_field_at(settings_class, keys))


def _dotted(location: Location) -> str:
    """`("stages", 0, "steps")` as `stages[0].steps`."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
