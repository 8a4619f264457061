"""Commands whose settings are a YAML file: `--config FILE key.sub=value ...`."""

import argparse
import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import TypeVar

from pydantic import ValidationError

from runtime.errors import UserError
from runtime.settings import Settings, explain, load_settings, nested
from runtime.value_types import ConfigFile
from semhitok.options import Parser, add_options

S = TypeVar("S", bound=Settings)


class YAMLOptions(Settings):
    """Where the settings come from."""

    config: ConfigFile | None = None
    """The settings, YAML; not needed where all required ones are given as key=value."""


def add_yaml_options(parser: argparse.ArgumentParser, settings_class: type[Settings]) -> None:
    """Add `--config` and the overrides, and list the keys that the file may hold."""
    add_options(parser, YAMLOptions)
    parser.add_argument(
        "overrides", nargs="*", metavar="key.sub=value", help="settings in place of the file's"
    )
    parser.epilog = f"{parser.epilog}\n\nkeys:\n" + "\n".join(_describe(settings_class))


def read_yaml_options(parser: Parser, settings_class: type[S], argv: Sequence[str]) -> S:
    """Read the file and the overrides.

    Raises:
        UserError: for arguments or settings that cannot be right.
    """
    for word in argv:
        name = word.partition("=")[0].removeprefix("--").replace("-", "_")
        if word.startswith("--") and name != "config" and name in settings_class.model_fields:
            parser.error(f"write {name}=VALUE, not {word}")
    arguments = parser.parse_intermixed_args(list(argv))
    overrides = arguments.overrides
    for word in overrides:
        if not re.match(r"\s*[^=\s]+\s*=", word):
            parser.error(f"write an override as key.sub=value, not {word!r}")
    given = getattr(arguments, "config", None)
    if given is None and not overrides:
        parser.error("the following arguments are required: --config")
    try:
        path = YAMLOptions.model_validate({"config": given}).config
    except ValidationError as error:
        raise UserError(explain(error, YAMLOptions, option=True)) from error
    return load_settings(settings_class, path, overrides)


def _describe(settings_class: type[Settings], prefix: str = "") -> Iterator[str]:
    for name, field in settings_class.model_fields.items():
        text = " ".join((field.description or "").split())
        if not field.is_required() and field.default not in (None, [], ()):
            inside = nested(field.annotation)
            shown = "" if inside else f" (default: {field.get_default(call_default_factory=True)})"
            text = text.rstrip(".") + shown
        yield textwrap.fill(
            text, 100, initial_indent=f"  {prefix + name:30}  ", subsequent_indent=" " * 34
        )
        if (inside := nested(field.annotation)) is not None:
            yield from _describe(inside, f"{prefix}{name}.")
