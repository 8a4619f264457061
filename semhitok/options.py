"""Command-line options made from settings: name, type, range, default and help come from the field.

`num_images: PositiveInt = 1` becomes `--num-images N`. A nested settings class becomes a group of
options. A truth value becomes a flag. A list takes several values, and may be repeated.
"""

import argparse
import types
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from runtime.errors import UserError
from runtime.settings import Option, Settings, explain, nested

S = TypeVar("S", bound=Settings)
METAVARS = {int: "N", float: "X", str: "TEXT"}


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one sentence and whose help ends in an example."""

    def __init__(self, prog: str, description: str, example: str):
        super().__init__(
            prog=prog,
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            epilog=f"example:\n  {example}",
            allow_abbrev=False,  # `--temp` would break on the day that another option starts so
        )

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see `{self.prog} --help`)")


def add_options(parser: argparse.ArgumentParser, settings_class: type[Settings]) -> None:
    """Add an option for each setting.

    Args:
        parser: of one command.
        settings_class: what the command takes.
    """
    group: Any = parser
    for name, field in settings_class.model_fields.items():
        inside = nested(field.annotation)
        if inside is None:
            _add_option(parser, name, field)
            continue
        title = (field.description or name).rstrip(".")
        group = parser.add_argument_group(title)
        for inner_name, inner_field in inside.model_fields.items():
            # Where the title says what holds by default, the fields' own defaults do not.
            _add_option(group, inner_name, inner_field, says_default="(default" not in title)
    for former, name in settings_class.renamed.items():
        flags = (f"--{word.replace('_', '-')}" for word in (former, name))
        parser.add_argument(next(flags), action=_Renamed, nargs="?", help=next(flags))


def read_options(
    parser: argparse.ArgumentParser, settings_class: type[S], argv: Sequence[str]
) -> S:
    """Parse arguments into settings.

    Raises:
        UserError: for arguments that cannot be right.
    """
    # Intermixed: positional arguments may stand between options.
    given = vars(parser.parse_intermixed_args(list(argv)))
    values: dict[str, Any] = {}
    for name, field in settings_class.model_fields.items():
        inside = nested(field.annotation)
        if inside is None:
            if name in given:
                values[name] = given[name]
        else:
            values[name] = {key: given[key] for key in inside.model_fields if key in given}
    try:
        return settings_class.model_validate(values)
    except ValidationError as error:
        sentence = explain(error, settings_class, option=True)
        raise UserError(f"{sentence} (see `{parser.prog} --help`)") from error


class _Once(argparse.Action):
    """Keeps one value; argparse itself would let the last of several win in silence."""

    def __call__(self, parser, namespace, values, option_string=None):
        if hasattr(namespace, self.dest):
            parser.error(f"{option_string} is given twice")
        setattr(namespace, self.dest, values)


class _Renamed(argparse.Action):
    """Refuses a former option; its help text, which is not shown, is the present one."""

    def __init__(self, option_strings, dest, help, **settings):
        super().__init__(
            option_strings, dest, help=argparse.SUPPRESS, default=argparse.SUPPRESS, **settings
        )
        self.present = help

    def __call__(self, parser, namespace, values, option_string=None):
        parser.error(f"{option_string} is called {self.present} now")


def _add_option(group: Any, name: str, field: FieldInfo, says_default: bool = True) -> None:
    kind, look = _kind_and_look(field)
    text = _help(field, kind, says_default)
    settings: dict[str, Any] = {"help": text, "default": argparse.SUPPRESS}
    flag = f"--{name.replace('_', '-')}"
    if kind is bool:
        on_and_off = field.default is not False
        settings["action"] = argparse.BooleanOptionalAction if on_and_off else "store_true"
        group.add_argument(flag, dest=name, **settings)
        return
    settings["metavar"] = look.metavar or METAVARS.get(kind, "VALUE")
    if get_origin(kind) is Literal:
        settings["metavar"] = "{" + ",".join(str(choice) for choice in get_args(kind)) + "}"
    if kind is list and look.one_each:
        settings["action"] = "append"
    elif kind is list and not look.commas:
        settings["nargs"] = "+" if field.is_required() or not look.positional else "*"
        if not look.positional:
            settings["action"] = "extend"
    elif not look.positional:
        settings["action"] = _Once
    if look.positional:
        group.add_argument(name, **settings)
    else:
        group.add_argument(flag, dest=name, required=field.is_required(), **settings)


def _kind_and_look(field: FieldInfo) -> tuple[Any, Option]:
    """The plain type of a field, and how it looks on the command line."""
    found = list(_parts(field.annotation))
    looks = [part for part in (*field.metadata, *found) if isinstance(part, Option)]
    kinds = [part for part in found if not isinstance(part, Option)]
    kind = kinds[0] if kinds else str
    metavar = next((look.metavar for look in looks if look.metavar), None)
    marks = ("positional", "commas", "one_each")
    return kind, Option(metavar, **{m: any(getattr(look, m) for look in looks) for m in marks})


def _parts(annotation: Any) -> Iterator[Any]:
    """Plain types and `Option`s of an annotation, outermost first."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *metadata = get_args(annotation)
        yield from (part for part in metadata if isinstance(part, Option))
        yield from _parts(inner)
    elif origin in (Union, types.UnionType):
        for part in get_args(annotation):
            if part is not type(None):
                yield from _parts(part)
    elif origin in (list, tuple):
        yield list
        for part in get_args(annotation):
            yield from (found for found in _parts(part) if isinstance(found, Option))
    else:
        yield annotation


def _help(field: FieldInfo, kind: Any, says_default: bool) -> str:
    text = " ".join((field.description or "").split()).rstrip(".")
    text = text[:1].lower() + text[1:] if text[1:2].islower() else text
    has_default = not field.is_required() and field.default not in (None, False, [], ())
    if says_default and has_default and "(default" not in text and kind is not bool:
        default = field.get_default(call_default_factory=True)
        shown = ",".join(map(str, default)) if isinstance(default, list) else default
        text += f" (default: {shown})"
    return text.replace("%", "%%")
